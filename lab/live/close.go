//go:build linux

package live

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/checks/trace"
	"ctlab/lab"
)

// Close reads everything once more and takes the network down, in the reverse order of building.
func (w *World) Close(ctx context.Context) (lab.Evidence, error) {
	var ev lab.Evidence
	if !w.built {
		return ev, nil
	}
	begin := time.Now()
	var errs []error
	complete := w.origin != 0
	recalibrated := w.recalibrate()
	for _, t := range w.tracked {
		if complete {
			snap, err := w.snapshot(ctx, t)
			errs = append(errs, err, w.inventory(t))
			ev.Final = append(ev.Final, snap)
		}
	}
	read := time.Since(begin)
	for _, c := range w.clients {
		if c.dns != nil {
			errs = append(errs, c.dns.Close())
		}
	}
	for _, s := range w.servers {
		errs = append(errs, w.stopServer(ctx, s))
	}
	traces, err := w.gather(complete, recalibrated)
	ev.Traces = traces
	errs = append(errs, err, w.net.Close())
	ev.Asked, ev.Waits = w.asked, w.waits
	ev.Taken = append(w.phases, lab.Phase{Name: "last read", Took: read}, lab.Phase{Name: "teardown", Took: time.Since(begin) - read})
	return ev, errors.Join(errs...)
}

// recalibrate watches the tick once more, beside everything else that is done at the end.
func (w *World) recalibrate() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-w.calmed
		w.calib.Watch(calibrationSamples / 3)
	}()
	return done
}

// gather ends the recording of each tracked node and makes the traces.
func (w *World) gather(complete bool, recalibrated <-chan struct{}) (traces []trace.Trace, err error) {
	var errs []error
	for _, t := range w.tracked {
		errs = append(errs, t.stop())
	}
	<-recalibrated
	ticks := w.calib.Ticks()
	for _, t := range w.tracked {
		if drift := w.calib.Drift(calibrationSamples / 3); drift > time.Second/time.Duration(ticks.HZ) {
			t.rec.lose("the tick clock moved by %v during the run", drift)
		}
		if !complete {
			continue
		}
		h := trace.Header{Lab: w.lab.Name, Node: t.spec.Name, Kernel: release(), Profile: w.profile.Name, Assured: w.profile.Assured, HZ: ticks.HZ, Names: w.names()}
		traces = append(traces, t.rec.trace(h, ticks, w.origin))
	}
	return traces, errors.Join(errs...)
}

// stop ends tap, listeners and table, and takes over what they collected. Also a node that is only half
// set up is stopped.
func (t *tracked) stop() error {
	var errs []error
	devices := t.node.Devices()
	if t.tap != nil {
		frames, lost, err := t.tap.Close()
		ended := now()
		t.rec.seen(ended, ended.From, trace.Ended, "", "")
		t.rec.frames(frames, devices, t.own)
		if lost > 0 {
			t.rec.lose("the tap lost %d frames", lost)
		}
		errs = append(errs, err)
	}
	if t.ears != nil {
		heard, lost, err := t.ears.Close()
		t.rec.events(heard)
		if lost > 0 {
			t.rec.lose("conntrack events were lost %d times", lost)
		}
		errs = append(errs, err)
	}
	if t.neigh != nil {
		lost, err := t.neigh.Close()
		t.rec.neighbours(lost, devices)
		errs = append(errs, err)
	}
	if t.table != nil {
		errs = append(errs, t.table.Close())
	}
	return errors.Join(errs...)
}

// names are the addresses that people know by name.
func (w *World) names() (out []trace.Name) {
	for _, n := range w.lab.Nodes {
		if n.Address.IsValid() {
			out = append(out, trace.Name{Name: n.Name, Addr: n.Address.Addr()})
		}
	}
	for _, s := range w.lab.Services {
		out = append(out, trace.Name{Name: s.Name, Addr: s.VIP})
	}
	return out
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return strings.TrimRight(string(u.Release[:]), "\x00")
}
