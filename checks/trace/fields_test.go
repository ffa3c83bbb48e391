package trace

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
)

// A field of an entry without a row in the comparison would never be compared. Known is what "absent"
// means in each row; time left and id have rules of their own.
func TestEveryFieldIsCompared(t *testing.T) {
	covered := []string{"Known", "Timeout", "ID"}
	for _, f := range fields() {
		covered = append(covered, f.of...)
	}
	e := reflect.TypeFor[conntrack.Entry]()
	for i := range e.NumField() {
		if name := e.Field(i).Name; !slices.Contains(covered, name) {
			t.Errorf("Entry.%s has no row", name)
		}
	}
}

// FuzzParse: no text makes the parser or a replay panic, and what parses is written and parsed again.
func FuzzParse(f *testing.F) {
	f.Add("ctlab-trace 1\nlab x\nnode n\nkernel k\nprofile 6.18\nhz 250\nin 0.0 0 rules restore\n\t*nat\n\t:PREROUTING ACCEPT [0:0]\n\t-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.2:53\n\tCOMMIT\n" +
		"in 0.0 0 link a up\nin 0.0 0 route 0.0.0.0/0 dev a\nin 0.0 0 sysctl net.ipv4.ip_forward 1\nin 0.1 5..6 packet a udp 10.0.0.1:1 > 10.0.0.9:2 len 60 ttl 64 ip-id 7\n" +
		"in 0.2 9 dump\nseen 0.2 9 entry udp 10.0.0.1:1 > 10.0.0.9:2 | 10.0.0.2:53 > 10.0.0.1:1 status confirmed timeout 29s\nseen 0.2 9 dumped 1\nend 9\n")
	f.Fuzz(func(t *testing.T, text string) {
		traces, err := Parse("fuzz", strings.NewReader(text))
		if err != nil {
			return
		}
		var b strings.Builder
		if err := Write(&b, traces...); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse("again", strings.NewReader(b.String())); err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		for _, tr := range traces {
			p, err := model.ProfileFor(tr.Profile)
			if err == nil {
				Replay(tr, p)
			}
		}
	})
}
