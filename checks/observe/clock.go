//go:build linux

package observe

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctlab/checks/conntrack"
)

// Monotonic is CLOCK_MONOTONIC in nanoseconds.
func Monotonic() int64 { return readClock(unix.CLOCK_MONOTONIC) }

func readClock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(fmt.Sprintf("clock %d: %v", id, err)) // these clocks exist on every Linux
	}
	return ts.Nano()
}

// tolerance is how far a stamp may lie from the moment at which the kernel reads its tick: the code
// between the tap and conntrack takes some microseconds, and the phase is known to a few more.
const tolerance = 50 * time.Microsecond

// Ticks converts CLOCK_MONOTONIC to kernel ticks. Tick 0 contains the moment of the first calibration.
type Ticks struct {
	HZ     int64
	length int64 // ns
	phase  int64 // a moment at which a tick began
}

// Tick that was current at a moment.
func (t Ticks) Tick(ns int64) conntrack.Tick {
	d := ns - t.phase
	if d < 0 {
		d -= t.length - 1
	}
	return conntrack.Tick(d / t.length)
}

// Stamp is the Span of ticks within which the kernel handled a packet that was stamped at ns.
func (t Ticks) Stamp(ns int64) conntrack.Span { return t.Between(ns, ns) }

// Between is the Span of something that happened between two moments.
func (t Ticks) Between(from, to int64) conntrack.Span {
	return conntrack.Span{From: t.Tick(from - int64(tolerance)), To: t.Tick(to + int64(tolerance))}
}

// TickLength finds the length of a tick, as the resolution of CLOCK_MONOTONIC_COARSE.
func TickLength() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		return 0, fmt.Errorf("resolution of CLOCK_MONOTONIC_COARSE: %w", err)
	}
	if n := ts.Nano(); n < int64(time.Millisecond)/2 || n > int64(20*time.Millisecond) {
		return 0, fmt.Errorf("resolution of CLOCK_MONOTONIC_COARSE: %d ns is no tick", n)
	}
	return time.Duration(ts.Nano()), nil
}

// Calibration watches the coarse clock change, which happens in the tick interrupt, right after jiffies
// was advanced. What is read of CLOCK_MONOTONIC just after a change is the tick's beginning plus a
// delay; the smallest of many is the best estimate, as delays only add.
type Calibration struct {
	length  int64
	mu      sync.Mutex
	samples []int64 // moments just after a tick began
}

// NewCalibration prepares a calibration.
func NewCalibration() (*Calibration, error) {
	l, err := TickLength()
	return &Calibration{length: int64(l)}, err
}

// Watch takes n samples; it sleeps up to shortly before each tick and then spins.
func (c *Calibration) Watch(n int) {
	const early = 400 * time.Microsecond
	next := int64(0)
	for range n {
		if next != 0 {
			if d := next - int64(early) - Monotonic(); d > 0 {
				time.Sleep(time.Duration(d))
			}
		}
		at := c.awaitTick()
		c.mu.Lock()
		c.samples = append(c.samples, at)
		c.mu.Unlock()
		next = at + c.length
	}
}

func (c *Calibration) awaitTick() int64 {
	before := readClock(unix.CLOCK_MONOTONIC_COARSE)
	deadline := Monotonic() + 4*c.length
	for {
		if readClock(unix.CLOCK_MONOTONIC_COARSE) != before {
			return Monotonic()
		}
		if now := Monotonic(); now > deadline {
			return now // a stopped clock shows up as a large spread
		}
	}
}

// Ticks is the result of all samples so far.
func (c *Calibration) Ticks() Ticks {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Ticks{HZ: int64(time.Second) / c.length, length: c.length, phase: c.earliest(c.samples)}
}

// crowd is how near samples must lie to each other to be believed. An undisturbed one comes some 15 us
// after its tick began and 99 of 100 come within 40 us of each other; one that was interrupted may come
// anywhere, up to a whole tick late.
const crowd = 200 * time.Microsecond

// earliest is the earliest of those samples, taken modulo the tick, that lie near most others. A single
// outlier, which modulo the tick can also look early, has no say.
func (c *Calibration) earliest(samples []int64) int64 {
	best, most := samples[0], 0
	for _, s := range samples {
		early, near := s, 0
		for _, o := range samples {
			off := c.offset(s, o)
			if time.Duration(off).Abs() > crowd {
				continue
			}
			near++
			early = min(early, s+off)
		}
		if near > most || near == most && c.offset(best, early) < 0 {
			best, most = early, near
		}
	}
	return best
}

// offset is how far o lies behind s within a tick, from minus half a tick to half a tick.
func (c *Calibration) offset(s, o int64) int64 {
	off := (o - s) % c.length
	switch {
	case off > c.length/2:
		off -= c.length
	case off < -c.length/2:
		off += c.length
	}
	return off
}

// Drift is how far the phase of the last n samples lies from that of the others: it says whether the tick
// kept its pace during the run.
func (c *Calibration) Drift(n int) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.samples) <= n {
		return 0
	}
	cut := len(c.samples) - n
	return time.Duration(c.offset(c.earliest(c.samples[:cut]), c.earliest(c.samples[cut:]))).Abs()
}

// WallOffset is CLOCK_REALTIME minus CLOCK_MONOTONIC. Only a step of the wall clock changes it:
// slewing moves both alike.
func WallOffset() int64 {
	best, width := int64(0), int64(1<<62)
	for range 5 {
		a := Monotonic()
		w := readClock(unix.CLOCK_REALTIME)
		b := Monotonic()
		if b-a < width {
			best, width = w-(a+(b-a)/2), b-a
		}
	}
	return best
}
