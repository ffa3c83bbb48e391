package conntrack

import "testing"

func TestHoldText(t *testing.T) {
	for _, line := range []string{
		"before-snat udp 10.0.1.2:40000 > 10.96.0.10:53 new",
		"before-confirm any any > any",
		"before-confirm udp any > any:53",
		"before-snat tcp 10.0.1.2 > any",
		"before-confirm icmp any > 10.0.2.1 new",
		"before-confirm udp [fd00::1]:53 > fd00::2",
		"before-snat 99 any:1 > any",
	} {
		h, err := ParseHold(line)
		if err != nil || h.String() != line {
			t.Errorf("%q: %q, %v", line, h, err)
		}
	}
	for _, line := range []string{
		"", "before-snat", "behind-snat udp any > any", "before-snat udp any any", "before-snat udp any > any old",
		"before-snat udp anyone > any", "before-snat udp any:0x > any", "before-snat 0 any > any", "before-snat udp any: > any",
	} {
		if h, err := ParseHold(line); err == nil {
			t.Errorf("%q: %q", line, h)
		}
	}
}

func TestHoldMatches(t *testing.T) {
	orig, err := ParseTuple("udp 10.0.1.2:40000 > 10.96.0.10:53")
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string][2]bool{ // of a NEW packet, of another
		"before-snat any any > any":                             {true, true},
		"before-snat any any > any new":                         {true, false},
		"before-snat udp 10.0.1.2:40000 > 10.96.0.10:53":        {true, true},
		"before-confirm tcp any > any":                          {false, false},
		"before-confirm udp 10.0.1.3 > any":                     {false, false},
		"before-confirm udp any:40001 > any":                    {false, false},
		"before-confirm udp any > 10.96.0.11":                   {false, false},
		"before-confirm udp any > any:54":                       {false, false},
		"before-confirm udp 10.96.0.10:53 > 10.0.1.2:40000 new": {false, false},
		"before-confirm udp 10.0.1.2 > any:53 new":              {true, false},
	} {
		h, err := ParseHold(line)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]bool{h.Matches(orig, true), h.Matches(orig, false)}; got != want {
			t.Errorf("%s: %v, want %v", line, got, want)
		}
	}
}
