//go:build linux

package observe

import (
	"os"
	"slices"
	"testing"
	"time"
)

const tick = int64(4 * time.Millisecond)

// Ticks begin where most intervals have them: a wide one says nothing wrong, and one that was late has no say.
func TestCalibration(t *testing.T) {
	us := int64(time.Microsecond)
	for name, c := range map[string]struct {
		intervals [][2]int64 // before and after, us within the tick
		want      int64
		agreed    bool
	}{
		"quiet":               {[][2]int64{{14, 15}, {14, 15}, {13, 15}, {14, 16}}, 15, true},
		"interrupted":         {[][2]int64{{2, 2490}, {14, 15}, {-900, 300}, {14, 16}}, 15, true},
		"mostly interrupted":  {[][2]int64{{2, 2490}, {10, 900}, {-900, 300}, {14, 15}}, 15, true},
		"a tick was late":     {[][2]int64{{1400, 1401}, {14, 15}, {13, 15}, {14, 15}}, 15, true},
		"over the end":        {[][2]int64{{3998, 4001}, {-1, 1}, {3990, 4001}}, 1, true},
		"nothing to agree on": {[][2]int64{{14, 15}, {700, 701}, {1900, 1901}, {3000, 3001}}, 15, false},
	} {
		cal := &Calibration{length: tick}
		for i, d := range c.intervals {
			at := 1000*tick + int64(i)*7*tick
			cal.samples = append(cal.samples, sample{at + d[0]*us, at + d[1]*us, at})
		}
		got := cal.Ticks().phase % tick
		if off := cal.offset(c.want*us, got); c.agreed && time.Duration(off).Abs() > 2*time.Microsecond {
			t.Errorf("%s: phase %d us, want %d", name, got/us, c.want)
		}
		if cal.Agreed() != c.agreed {
			t.Errorf("%s: agreed %t", name, cal.Agreed())
		}
	}
}

func TestTicks(t *testing.T) {
	k := Ticks{HZ: 250, length: tick, phase: 10 * tick}
	for ns, want := range map[int64]int64{10 * tick: 0, 11*tick - 1: 0, 11 * tick: 1, 10*tick - 1: -1, 8 * tick: -2} {
		if got := k.Tick(ns); int64(got) != want {
			t.Errorf("tick at %d: %d, want %d", ns, got, want)
		}
	}
}

// What is known of shortly before and after decides which tick it was, also where the machine was late with
// one.
func TestBetween(t *testing.T) {
	us := int64(time.Microsecond)
	edge := 11 * tick // tick 1 is due
	for name, c := range map[string]struct {
		at      int64
		known   []known
		settled int64
		want    string
	}{
		"nothing is known":          {edge + 2000*us, nil, 0, "-7..1"},
		"near a boundary":           {edge + 20*us, nil, 0, "-8..1"},
		"in time":                   {edge + 2000*us, []known{{edge + 1990*us, 1, 1}}, 0, "1"},
		"late":                      {edge + 500*us, []known{{edge + 490*us, 0, 0}, {edge + 510*us, 0, 0}}, 0, "0"},
		"late by more than one":     {edge + 500*us, []known{{edge + 490*us, -2, -2}, {edge + 510*us, -2, -2}}, 0, "-2"},
		"late, and came":            {edge + 500*us, []known{{edge + 490*us, 0, 0}, {edge + 510*us, 1, 1}}, 0, "0..1"},
		"near a boundary, and late": {edge + 20*us, []known{{edge - 90*us, 0, 0}, {edge + 30*us, 0, 1}}, 0, "0..1"},
		"too near to say anything":  {edge + 2000*us, []known{{edge + 1950*us, 1, 1}}, 100, "-7..1"},
		"of long ago":               {edge + 2000*us, []known{{5 * tick, -6, -6}}, 0, "-6..1"},
	} {
		k := Ticks{HZ: 250, length: tick, phase: 10 * tick, known: c.known, settled: time.Duration(c.settled) * time.Microsecond}
		if got := k.Stamp(c.at).String(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Jiffies and the coarse clock are turned into the same ticks; one that is late counts as what it is.
func TestKnowledge(t *testing.T) {
	us := int64(time.Microsecond)
	at := func(n int64) int64 { return (10+n)*tick + 500*us }
	for name, c := range map[string]struct {
		jiffies *jiffies
		facts   []fact
		want    []known
	}{
		"jiffies": {&jiffies{}, []fact{{at(0), 1<<32 - 1, 1<<32 - 1}, {at(1), 0, 0}, {at(2), 0, 1}, {at(3), 2, 2}},
			[]known{{at(0), 0, 0}, {at(1), 1, 1}, {at(2), 1, 2}, {at(3), 3, 3}}},
		"coarse": {nil, []fact{{at(0), 7 * us, 7 * us}, {at(1), 7*us + tick, 7*us + tick + 1}},
			[]known{{at(0), -1, 0}, {at(1), 0, 1}}},
	} {
		cal := &Calibration{length: tick, facts: c.facts, jiffies: c.jiffies}
		got := cal.knowledge(Ticks{length: tick, phase: 10 * tick}, 7*us)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Where all ticks that were watched came late, a counter that had gone on before shows when they were due.
func TestTicksWereDueBeforeTheyWereSeen(t *testing.T) {
	us := int64(time.Microsecond)
	c := &Calibration{length: tick, jiffies: &jiffies{}}
	for n := range int64(9) { // due at whole ticks, seen 1.5 ms later
		c.samples = append(c.samples, sample{before: n*tick + 100*us, after: n*tick + 1500*us, coarse: n * tick})
		c.facts = append(c.facts, fact{n*tick + 2000*us, n, n})
	}
	late := 8*tick + 700*us
	for _, f := range []struct {
		fact
		want string
	}{
		{fact{late, 7, 7}, "7"},            // this one was late itself: it says nothing
		{fact{late + 200*us, 8, 8}, "8"},   // had begun before the samples would have it
		{fact{4*tick + 400*us, 4, 4}, "8"}, // earlier still
	} {
		c.facts = append(c.facts, f.fact)
		if got := c.Ticks().Stamp(late + 200*us).String(); got != f.want {
			t.Errorf("with %v: %s, want %s", f.fact, got, f.want)
		}
	}
}

// The kernel's own counter, where it can be read, advances with the clock.
func TestJiffies(t *testing.T) {
	c, err := NewCalibration()
	if err != nil {
		t.Fatal(err)
	}
	if c.jiffies == nil {
		if os.Getenv("CI") != "" {
			t.Fatal("jiffies cannot be read")
		}
		t.Skip("this kernel does not tell its jiffies without privileges")
	}
	c.Watch(3, nil)
	c.Now()
	c.Watch(3, nil)
	c.Now()
	if k := c.Ticks().known; k[1].least <= k[0].most {
		t.Errorf("jiffies stood still: %v", k)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
