//go:build linux

package observe

import (
	"testing"
	"time"
)

const tick = int64(4 * time.Millisecond)

// The phase is the earliest of the samples that lie near each other; one that came late, which modulo the
// tick can also look early, has no say.
func TestCalibrationIgnoresOutliers(t *testing.T) {
	us := int64(time.Microsecond)
	for name, delays := range map[string][]int64{
		"quiet":              {18, 15, 22, 30, 16, 40},
		"the first was late": {2490, 15, 22, 30, 16, 18},
		"one looks early":    {18, 15, 3700, 30, 16, 18},
		"half were late":     {900, 15, 22, 2400, 16, 3100},
	} {
		c := &Calibration{length: tick}
		for i, d := range delays {
			c.samples = append(c.samples, 1000*tick+int64(i)*7*tick+d*us)
		}
		if got := c.Ticks().phase % tick; got != 15*us {
			t.Errorf("%s: phase %d us, want 15", name, got/us)
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
	edge := 11*tick + int64(20*time.Microsecond)
	if s := k.Stamp(edge); s.From != 0 || s.To != 1 {
		t.Errorf("a stamp 20 us behind a boundary: %s", s)
	}
}

func TestDecodeIPv4(t *testing.T) {
	udp := []byte{0x45, 0, 0, 32, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x9c, 0x75, 0, 53, 0, 12, 0xbe, 0xef, 'a', 'b', 'c', 'd'}
	if p := decodeIPv4(udp, true); p.Line() != "udp 10.0.0.1:40053 > 10.0.0.2:53 len 32 ttl 64 ip-id 4660" {
		t.Errorf("%s", p.Line())
	}
	if p := decodeIPv4(udp, false); p.Bad != "checksum" {
		t.Errorf("bad checksum: %q", p.Bad)
	}
	short := append([]byte(nil), udp...)
	short[25] = 200
	if p := decodeIPv4(short, true); p.Bad != "length" {
		t.Errorf("bad length: %q", p.Bad)
	}
	frag := append([]byte(nil), udp...)
	frag[7] = 1
	if p := decodeIPv4(frag, true); p.Bad != "fragment" {
		t.Errorf("fragment: %q", p.Bad)
	}
	for i := range udp {
		decodeIPv4(udp[:i], false) // must not panic
	}
}

func FuzzDecodeIPv4(f *testing.F) {
	f.Add([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 3, 3, 0, 0, 0, 0, 0, 0, 0x45}, false)
	f.Fuzz(func(t *testing.T, b []byte, verified bool) {
		decodeIPv4(b, verified)
		decodeARP(b)
	})
}
