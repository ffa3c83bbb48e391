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
	f.Add("ctlab-trace 1\nlab x\nnode n\nkernel k\nprofile 6.18\nhz 250\nin 0.0 0 link a up\nin 0.0 0 address a 10.0.1.1/24\nin 0.0 0 route 10.0.0.0/8 via 10.0.1.2 dev a\nin 0.0 0 socket open 10.0.1.1:5 > 10.0.1.2:53\n" +
		"in 0.1+0.003 5..6 rules noflush\n\t*nat\n\t:POSTROUTING ACCEPT\n\t-A POSTROUTING -j MASQUERADE --random\n\tCOMMIT\nin 0.101 5 send udp 0.0.0.0:5 > 10.0.9.9:53 len 60 ttl 0 ip-id 0\n" +
		"in 0.2+0.1 5 dump\nin 0.21 6 packet a udp 10.0.1.2:1 > 10.0.9.9:2 len 60 ttl 64 ip-id 7\nin 0.3+0.01 7 flush\nseen 0.3+0.2 7 hits\n\t*nat\n\t[1:60] -A POSTROUTING -j MASQUERADE\nin 0.4 9 link a gone\nin 0.5 9 no-address a 10.0.1.1/24\nin 0.5 9 no-route 10.0.0.0/8 dev a\nend 13\n")
	f.Add("ctlab-trace 1\nlab x\nnode n\nkernel k\nprofile 6.18\nhz 250\nctinfo BPF\nin 0.0 0 link a up\nin 0.0 0 route 0.0.0.0/0 dev a\nin 0.0 0 sysctl net.ipv4.ip_forward 1\n" +
		"in 0.1 5..6 packet a udp 10.0.0.1:1 > 10.0.0.9:2 len 60 ttl 64 ip-id 7\nseen 0.1 5..6 ctinfo a udp 10.0.0.1:1 > 10.0.0.9:2 len 60 ttl 64 ip-id 7 is invalid\nseen 0.2 5..6 ended\nend 6\n")
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
