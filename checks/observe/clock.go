//go:build linux

package observe

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
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

// Ticks converts CLOCK_MONOTONIC to kernel ticks. Tick 0 contains the moment at which Calibration has ticks
// begin.
type Ticks struct {
	HZ      int64
	length  int64 // ns
	phase   int64 // a moment at which a tick began
	known   []known
	settled time.Duration // how far from a moment what is known must lie
}

// known says of a moment that the tick had reached least by then, and had not gone beyond most.
type known struct {
	at          int64
	least, most conntrack.Tick
}

// Tick that was due at a moment. The machine may have been late with it.
func (t Ticks) Tick(ns int64) conntrack.Tick {
	d := ns - t.phase
	if d < 0 {
		d -= t.length - 1
	}
	return conntrack.Tick(d / t.length)
}

// Stamp is the Span of ticks within which the kernel handled a packet that was stamped at ns.
func (t Ticks) Stamp(ns int64) conntrack.Span { return t.Between(ns, ns) }

// latest is with how many ticks a machine may be late where nothing is known. Two were seen on two processors
// with twice as much to do.
const latest = 8

// Between is the Span of something that happened between two moments. The tick is the one that was due, with
// some tolerance, or an earlier one, with which the machine was late; what is known of shortly before and
// after leaves only one, nearly always.
func (t Ticks) Between(from, to int64) conntrack.Span {
	s := conntrack.Span{From: t.Tick(from-int64(tolerance)) - latest, To: t.Tick(to + int64(tolerance))}
	before := sort.Search(len(t.known), func(i int) bool { return t.known[i].at > from-int64(t.settled) })
	if before > 0 {
		s.From = max(s.From, t.known[before-1].least)
	}
	after := sort.Search(len(t.known), func(i int) bool { return t.known[i].at >= to+int64(t.settled) })
	if after < len(t.known) {
		s.To = min(s.To, t.known[after].most)
	}
	s.From = min(s.From, s.To)
	return s
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

// Calibration watches the coarse clock change, which happens in the tick interrupt, right after jiffies was
// advanced. Each change says that a tick began between two readings of CLOCK_MONOTONIC, one before the last
// look that still found the old value and one behind the first that found the new one. Modulo the tick, the
// moment that lies in most of these intervals is when ticks begin. A thread that is interrupted in between
// gives a wide interval, which says little and nothing wrong; a tick that the machine itself was late with
// gives one that most others contradict.
type Calibration struct {
	length  int64
	mu      sync.Mutex
	samples []sample
	facts   []fact
	jiffies *jiffies // nil where the kernel does not tell
	closed  bool
}

// sample is an interval in which a tick began: behind before, and not behind after. From then on the coarse
// clock shows the given value.
type sample struct{ before, after, coarse int64 }

// fact is what jiffies were before and after a moment, or, where the kernel does not tell them, what the coarse
// clock showed.
type fact struct{ at, before, after int64 }

// Now is CLOCK_MONOTONIC. It also notes which tick the kernel is in, so that what happens shortly before or
// after has its tick known however late the machine is with its ticks: of 5,000 on two busy processors 374
// came 70 us to 2 ms late.
func (c *Calibration) Now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return Monotonic()
	}
	f := fact{before: c.counter()}
	f.at = Monotonic()
	f.after = c.counter()
	c.facts = append(c.facts, f)
	return f.at
}

func (c *Calibration) counter() int64 {
	if c.jiffies == nil {
		return readClock(unix.CLOCK_MONOTONIC_COARSE)
	}
	j, err := c.jiffies.read()
	if err != nil {
		panic(err) // it could be read when the calibration was made
	}
	return int64(j)
}

// Close ends the calibration: nothing is noted any more. Ticks still answers.
func (c *Calibration) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.jiffies == nil || c.closed {
		return nil
	}
	c.closed = true
	return c.jiffies.close()
}

// knowledge is what the facts say in ticks.
func (c *Calibration) knowledge(t Ticks, coarse int64) []known {
	out := make([]known, 0, len(c.facts))
	offset := c.firstJiffy(t)
	for _, f := range c.facts {
		k := known{at: f.at}
		if c.jiffies != nil {
			k.least, k.most = conntrack.Tick(int32(uint32(f.before-offset))), conntrack.Tick(int32(uint32(f.after-offset)))
		} else {
			k.least, k.most = shown(f.before-coarse, t.length)-1, shown(f.after-coarse, t.length)
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b known) int { return cmp.Compare(a.at, b.at) })
	return out
}

// firstJiffy is the value of jiffies in tick 0: what most facts say, as most ticks are in time.
func (c *Calibration) firstJiffy(t Ticks) (first int64) {
	votes := map[int64]int{}
	for _, f := range c.facts {
		v := int64(uint32(f.before - int64(t.Tick(f.at))))
		if votes[v]++; votes[v] > votes[first] {
			first = v
		}
	}
	return first
}

// shown is how many ticks the coarse clock has gone on. Where a tick is more than three quarters late the clock
// runs ahead of jiffies by one, until the next tick.
func shown(d, length int64) conntrack.Tick {
	d += length / 2
	if d < 0 {
		d -= length - 1
	}
	return conntrack.Tick(d / length)
}

// settled is how long before or after an act the coarse clock must have been read to say something of it: it
// and jiffies are not advanced at one and the same moment for all processors.
const settled = 100 * time.Microsecond

// NewCalibration prepares a calibration.
func NewCalibration() (*Calibration, error) {
	l, err := TickLength()
	c := &Calibration{length: int64(l)}
	c.jiffies, _ = openJiffies() // without privileges, or on an old kernel, the coarse clock must do
	return c, err
}

// Exact reports whether the kernel tells its tick counter. Where it does not, the coarse clock says which tick
// it is, but for one.
func (c *Calibration) Exact() bool { return c.jiffies != nil }

// sharp is how narrow an interval is when nothing but the tick itself interrupted its making: 10 to 40 us on
// the processor that has the tick, 3 us on another one.
const sharp = 50 * time.Microsecond

// Settle waits until what it notes says something of what comes next.
func (c *Calibration) Settle() {
	now := c.Now()
	for c.jiffies == nil && Monotonic() < now+int64(settled) {
	}
}

// Watch takes samples until n of them are sharp, or five times as many were taken, or, once there are some, stop is
// closed; it sleeps up to shortly before each tick and then spins.
func (c *Calibration) Watch(n int, stop <-chan struct{}) {
	const early = 400 * time.Microsecond
	next, good := int64(0), 0
	for tries := 0; good < n && tries < 5*n; tries++ {
		if tries >= fewest && isClosed(stop) {
			return
		}
		if next != 0 {
			if d := next - int64(early) - Monotonic(); d > 0 {
				time.Sleep(time.Duration(d))
			}
		}
		s := c.awaitTick()
		if time.Duration(s.after-s.before) <= sharp {
			good++
		}
		c.mu.Lock()
		c.samples = append(c.samples, s)
		c.mu.Unlock()
		next = s.after + c.length
	}
}

// fewest is how many samples there are at the least.
const fewest = 5

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// pace is how often Keep looks. What CLOCK_MONOTONIC gains or loses against the tick in that time, 500 ppm while it is
// slewed, is far less than what is known of a tick.
const pace = 100 * time.Millisecond

// Keep goes on with a sample now and then until stop is closed.
func (c *Calibration) Keep(stop <-chan struct{}) {
	timer := time.NewTicker(pace)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-timer.C:
		}
		c.mu.Lock()
		last := c.samples[len(c.samples)-1].after
		c.mu.Unlock()
		const early = 400 * time.Microsecond
		next := last + ((Monotonic()+int64(early)-last)/c.length+1)*c.length
		time.Sleep(time.Duration(next - int64(early) - Monotonic()))
		s := c.awaitTick()
		c.mu.Lock()
		c.samples = append(c.samples, s)
		c.mu.Unlock()
	}
}

func (c *Calibration) awaitTick() sample {
	before := Monotonic()
	deadline := before + 4*c.length
	old := readClock(unix.CLOCK_MONOTONIC_COARSE)
	for {
		now := Monotonic()
		if shown := readClock(unix.CLOCK_MONOTONIC_COARSE); shown != old {
			return sample{before, Monotonic(), shown}
		}
		before = now
		if now > deadline {
			return sample{before - c.length, now, old} // a clock that stands still says nothing
		}
	}
}

// Ticks is the result of all samples so far.
func (c *Calibration) Ticks() Ticks {
	c.mu.Lock()
	defer c.mu.Unlock()
	begin, _ := c.begin(c.samples)
	t := Ticks{HZ: int64(time.Second) / c.length, length: c.length, phase: begin.after}
	t.known = c.knowledge(t, begin.coarse)
	if c.jiffies == nil {
		t.settled = settled
		return t
	}
	if early := t.early(); early > 0 {
		t.phase -= early
		t.known = c.knowledge(t, begin.coarse)
	}
	return t
}

// early is by how much a tick was there before it should have been, at the most. As no tick ever comes before it is due
// (tick_do_update_jiffies64 in kernel/time/tick-sched.c), ticks are due earlier by that much: on a machine where all that was
// watched came late, as in an emulated one, the samples alone have them too late.
func (t Ticks) early() (most int64) {
	for _, k := range t.known {
		most = max(most, t.phase+int64(k.least)*t.length-k.at)
	}
	return most
}

// begin is the sample at whose upper end ticks begin, and how many samples agree with it. Of those that nearly
// the most intervals hold it is the earliest: interrupts and ticks come late, never early, and where most
// intervals are wide a late one is held by as many as a good one.
func (c *Calibration) begin(samples []sample) (begin sample, have int) {
	counts, most, best := make([]int, len(samples)), 0, 0
	for i, s := range samples {
		for _, o := range samples {
			if c.holds(o, s.after) {
				counts[i]++
			}
		}
		if counts[i] > most {
			most, best = counts[i], i
		}
	}
	for i, s := range samples {
		if 10*counts[i] >= 9*most && c.offset(samples[best].after, s.after) < 0 {
			best = i
		}
	}
	return samples[best], counts[best]
}

// holds reports whether a moment lies in an interval, modulo the tick.
func (c *Calibration) holds(s sample, at int64) bool {
	behind := (at - s.before) % c.length
	if behind < 0 {
		behind += c.length
	}
	return behind <= s.after-s.before+int64(slack)
}

// slack is what two readings of a tick's beginning may differ by: the interrupt comes some microseconds late,
// and not always equally many. Of 600 intervals, on a machine with a load of 4, all but 5 hold one moment.
const slack = 10 * time.Microsecond

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

// Agreed reports whether most of the samples, from the start to the end, agree on when ticks begin. Where they do not,
// ticks come late, have moved, or the watcher was never left in peace, and Spans mean nothing.
func (c *Calibration) Agreed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, have := c.begin(c.samples)
	return 2*have > len(c.samples)
}

// WallOffset is CLOCK_REALTIME minus CLOCK_MONOTONIC. Only a step of the wall clock changes it: slewing moves
// both alike. It is as good as the narrowest of some readings; a thread that is interrupted tries again.
func WallOffset() int64 {
	const narrow, most = 500, 1000 // ns, tries
	best, width := int64(0), int64(1<<62)
	for try := 0; try < 5 || width > narrow && try < most; try++ {
		a := Monotonic()
		w := readClock(unix.CLOCK_REALTIME)
		b := Monotonic()
		if b-a < width {
			best, width = w-(a+(b-a)/2), b-a
		}
	}
	return best
}
