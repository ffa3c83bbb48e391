package trace

import (
	"testing"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// A port that was free to choose is known by what is seen of the flow later, but not by the word of an entry that the flow had
// before, which a busy machine hears when the next one is there already.
func TestPortOfAnEntryBefore(t *testing.T) {
	e, err := conntrack.ParseEntry("udp 10.0.0.1:41002 > 10.0.0.9:53 | 10.0.0.2:53 > 10.0.0.3:26098 status confirmed")
	if err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]bool{"new ": true, "update ": false, "destroy ": false} {
		port, ok := portIn(Record{Kind: Event, Args: args + e.String()}, model.Choice{Flow: e.Orig}, &conntrack.Packet{})
		if ok != want || ok && port != 26098 {
			t.Errorf("%s: %d, %t", args, port, ok)
		}
	}
}
