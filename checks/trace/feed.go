package trace

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// apply hands one input to the model and collects what it predicts.
func (h *hypothesis) apply(r Record) error {
	h.predict(h.ns.Elapse(r.Span, h.hasHeardOf))
	err := h.feed(r)
	h.events = append(h.events, h.ns.Events()...)
	h.predictCTInfo(r.At)
	if err != nil {
		return fmt.Errorf("input %q: %w", r.String(), err)
	}
	return nil
}

func (h *hypothesis) feed(r Record) error {
	n := h.ns
	switch r.Kind {
	case Packet:
		dev, p, err := devicePacket(r.Args)
		if err != nil {
			return err
		}
		o := n.Packet(r.Span, dev, p)
		h.predict(o.Left)
		if p.IsDiscovery() { // of no interest to those who follow packets
			return nil
		}
		h.packets = &trail{Handled{r, dev, p, o}, h.packets}
	case ARP:
		dev, a, err := deviceAddr(r.Args)
		if err != nil {
			return err
		}
		h.predict(n.Resolved(dev, a))
	case Neigh:
		dev, a, err := deviceAddr(r.Args)
		if err != nil {
			return err
		}
		for _, g := range n.Lost(r.Span, dev, a) {
			h.predict(g.Outcome.Left)
			h.packets = &trail{Handled{r, dev, g.Packet, g.Outcome}, h.packets}
		}
	case Rules:
		return n.Load(r.Text, r.Args == "noflush")
	case Rules6:
		return n.Load6(r.Text, r.Args == "noflush")
	case Sysctl:
		key, value, _ := strings.Cut(r.Args, " ")
		n.Set(key, value)
	case Listen:
		n.Listen()
	case Send:
		p, err := conntrack.ParsePacket(r.Args)
		if err != nil {
			return err
		}
		o := n.Send(r.Span, p)
		h.predict(o.Left)
		h.packets = &trail{Handled{r, "", p, o}, h.packets}
	case Discover:
		dev, p, err := devicePacket(r.Args)
		if err != nil {
			return err
		}
		n.Discovers(r.Span, dev, p)
	case Socket:
		open, s, err := parseSocket(r.Args)
		switch {
		case err != nil:
			return err
		case open:
			n.Bind(s)
		default:
			n.Unbind(s)
		}
	case Hold, Unhold, Release:
		return h.feedHold(r)
	case Link, Address, NoAddress, Routing, NoRouting:
		return h.feedNetwork(r)
	default:
		return h.feedTable(r)
	}
	return nil
}

// errNotHeld says that a packet was released that a hypothesis does not hold: so it was not that way.
var errNotHeld = errors.New("no such packet waits")

// feedHold handles packets that are held on their way.
func (h *hypothesis) feedHold(r Record) error {
	n := h.ns
	switch r.Kind {
	case Hold:
		hold, err := conntrack.ParseHold(r.Args)
		if err != nil {
			return err
		}
		n.Hold(hold)
	case Unhold:
		n.Unhold()
	case Release:
		nth, accept, err := parseRelease(r.Args)
		if err != nil {
			return err
		}
		held := n.Held()
		if nth > len(held) {
			return fmt.Errorf("%w: the model holds %d packets", errNotHeld, len(held))
		}
		o := n.Release(r.Span, nth, accept)
		h.predict(o.Left)
		h.packets = &trail{Handled{r, "", held[nth-1], o}, h.packets}
	}
	return nil
}

// feedNetwork handles changes of links, addresses and routes.
func (h *hypothesis) feedNetwork(r Record) error {
	n := h.ns
	switch r.Kind {
	case Link:
		dev, state, err := deviceState(r.Args)
		switch {
		case err != nil:
			return err
		case state == "gone":
			n.DelLink(r.Span, dev)
		case state == "down":
			n.Down(r.Span, dev)
		case strings.HasPrefix(state, "mtu "):
			mtu, _ := strconv.Atoi(strings.TrimPrefix(state, "mtu ")) // which deviceState has read
			n.SetMTU(dev, mtu)
		default:
			n.SetLink(dev, true)
		}
	case Address, NoAddress:
		dev, a, err := devicePrefix(r.Args)
		switch {
		case err != nil:
			return err
		case r.Kind == Address:
			n.AddAddress(dev, a)
		default:
			n.DelAddress(r.Span, dev, a)
		}
	case Routing, NoRouting:
		route, err := parseRoute(r.Args)
		switch {
		case err != nil:
			return err
		case r.Kind == Routing:
			n.AddRoute(route)
		default:
			n.DelRoute(route)
		}
	}
	return nil
}

// feedTable handles the inputs that read or write the table.
func (h *hypothesis) feedTable(r Record) error {
	n := h.ns
	switch r.Kind {
	case Get:
		k, err := conntrack.ParseKey(r.Args)
		if err != nil {
			return err
		}
		h.reading, h.single, h.open = nil, true, true
		if p, ok := n.GetKey(r.Span, k); ok {
			h.reading = []readable{{versions: []model.Predicted{p}}}
		}
	case Dump:
		h.reading, h.single, h.open = nil, false, true
		for _, p := range n.Dump(r.Span) {
			h.reading = append(h.reading, readable{versions: []model.Predicted{p}, optional: p.Undecided})
		}
	case Delete:
		k, err := conntrack.ParseKey(r.Args)
		if err != nil {
			return err
		}
		n.DeleteKey(r.Span, k)
	case Flush:
		n.Flush(r.Span)
	case Create:
		e, err := conntrack.ParseEntry(r.Args)
		if err != nil {
			return err
		}
		n.Create(r.Span, e)
	case Fill:
		count, timeout, err := parseFill(r.Args)
		if err != nil {
			return err
		}
		n.Fill(r.Span, count, timeout)
	case Update:
		e, err := conntrack.ParseEntry(r.Args)
		if err != nil {
			return err
		}
		_ = n.Update(r.Span, e) // whether it was refused can be seen of the entry
	}
	return nil
}

// hasHeardOf reports whether an error about a fragment was seen that nothing explains yet.
func (h *hypothesis) hasHeardOf(first *conntrack.Packet) bool {
	return slices.ContainsFunc(h.early, func(r Record) bool {
		_, p, err := devicePacket(r.Args)
		return err == nil && aboutFragments(r) && p.About.ID == first.ID && p.About.Tuple() == first.Tuple()
	})
}

// predict queues packets that must be seen leaving; those whose cause came late may have been seen.
func (h *hypothesis) predict(lefts []model.Left) {
	for _, l := range lefts {
		if l.Late && h.takeEarly(l) || h.ended {
			continue
		}
		h.lefts = append(h.lefts, l)
	}
}

func (h *hypothesis) takeEarly(l model.Left) bool {
	for i, r := range h.early {
		dev, p, err := devicePacket(r.Args)
		if err == nil && r.Span.To >= l.Since && len(comparePacket(r, &l, dev, &p)) == 0 {
			h.early = slices.Delete(slices.Clone(h.early), i, i+1)
			return true
		}
	}
	return false
}
