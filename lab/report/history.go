package report

import (
	"slices"
	"time"

	"ctlab/lab"
)

// history is what the steps of a run did to services and servers, in the order of time.
type history struct {
	lab     *lab.Lab
	changes []change
	deaths  []death
	places  map[string]string // of servers: the node on which each runs, or ran
	running map[string]bool   // servers, at the end
}

// change is a service's backends before and after a step.
type change struct {
	at       time.Duration
	step     int
	service  string
	from, to []string
}

// death is the end of a server on a node.
type death struct {
	at    time.Duration
	node  string
	how   lab.Death
	reuse string // who was given the address
}

func newHistory(r *lab.Result) *history {
	h := &history{lab: r.Lab, places: map[string]string{}, running: map[string]bool{}}
	now := map[string][]string{}
	for _, s := range r.Lab.Services {
		now[s.Name] = s.Backends
	}
	for _, s := range r.Lab.Servers {
		h.places[s.Name], h.running[s.Name] = s.On, !s.Stopped
	}
	for i := range r.Steps {
		h.step(&r.Steps[i], now)
	}
	return h
}

func (h *history) step(s *lab.StepResult, now map[string][]string) {
	out := &s.Outcome
	if out.NotPlayed != "" {
		return
	}
	switch s.Step.Kind {
	case lab.Restart:
		r := out.Restarted
		if r == nil {
			return
		}
		h.places[r.Server], h.running[r.Server] = r.To, true
		if r.From != r.To {
			h.deaths = append(h.deaths, death{out.Began, r.From, r.Death, r.Reuse})
		}
		for _, name := range r.Services {
			h.change(s, name, now, replaced(now[name], r.From, r.To))
		}
	case lab.SetBackends:
		h.change(s, s.Step.Service, now, newBackends(s.Step, now[s.Step.Service]))
	case lab.Start:
		for _, name := range s.Step.Servers {
			h.running[name] = true
		}
	case lab.Stop:
		for _, name := range s.Step.Servers {
			h.deaths = append(h.deaths, death{out.Began, h.places[name], s.Step.Death, s.Step.Reuse})
			h.running[name] = false
		}
	}
}

func (h *history) change(s *lab.StepResult, service string, now map[string][]string, to []string) {
	h.changes = append(h.changes, change{s.Outcome.Ended, s.Step.Index, service, now[service], to})
	now[service] = to
}

func replaced(backends []string, from, to string) []string {
	var out []string
	for _, b := range backends {
		if b == from {
			b = to
		}
		if !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

func newBackends(s *lab.Step, before []string) []string {
	if s.HasSet {
		return s.Set
	}
	var out []string
	for _, b := range append(slices.Clone(before), s.Add...) {
		if !slices.Contains(s.Remove, b) && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// backends of a service at a moment.
func (h *history) backends(service string, at time.Duration) []string {
	var now []string
	if s := h.lab.Service(service); s != nil {
		now = s.Backends
	}
	for _, c := range h.changes {
		if c.service == service && c.at <= at {
			now = c.to
		}
	}
	return now
}

// ever are all the backends that a service had.
func (h *history) ever(service string) []string {
	all := slices.Clone(h.backends(service, -1))
	for _, c := range h.changes {
		if c.service == service {
			all = append(all, c.to...)
		}
	}
	return all
}

// since is when the service got the backends that it has at the end.
func (h *history) since(service string) time.Duration {
	at := time.Duration(0)
	for _, c := range h.changes {
		if c.service == service {
			at = c.at
		}
	}
	return at
}

// of is the change that a step made to a service.
func (h *history) of(step int, service string) (change, bool) {
	for _, c := range h.changes {
		if c.step == step && c.service == service {
			return c, true
		}
	}
	return change{}, false
}

// died is the last end of a server on a node, if none runs there at the end.
func (h *history) died(node string) (death, bool) {
	for server, on := range h.places {
		if on == node && h.running[server] {
			return death{}, false
		}
	}
	for _, d := range slices.Backward(h.deaths) {
		if d.node == node {
			return d, true
		}
	}
	return death{}, false
}

// end is behind everything that happened in a run.
const end = time.Duration(1<<63 - 1)
