package service_test

import (
	"testing"

	"ctlab/topology/service"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"-A FORWARD -j DROP", ""},
		{"  -t nat -A PREROUTING -p udp --dport 53 -j DNAT --to-destination 10.0.0.1\n", ""},
		{"--append INPUT -j ACCEPT\n--policy FORWARD DROP\n-I INPUT 2 -j DROP", ""},
		{"*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT", ""},
		{"# remark\n*raw\n:PREROUTING ACCEPT [1:60]\n[1:60] -A PREROUTING -j ACCEPT\nCOMMIT\n# end", ""},
		{"", ""},
		{"-A FORWARD -j DROP\n-D FORWARD 1", "line 2: -D makes no sense at the beginning; ctlab knows -A, -I, -P, -N"},
		{"-F", "line 1: -F makes no sense"},
		{"FORWARD -j DROP", `line 1: "FORWARD" is no command that ctlab knows; a line begins with -A`},
		{"\n\niptables -A FORWARD -j DROP", `line 3: write what stands behind "iptables"`},
		{"-t security -A INPUT -j DROP", `line 1: table "security" is not known; tables: raw, mangle, nat, filter`},
		{"-t", "-t wants a table"},
		{"-t nat", "there is no command"},
		{"-A", "-A wants a chain"},
		{"-A -j DROP", `-A wants a chain, not "-j"`},
		{"-A PREROUTING -j DROP", "table filter has no chain PREROUTING"},
		{"-P mine DROP", "mine is no built-in chain of table filter"},
		{"-P FORWARD REJECT", "-P FORWARD wants ACCEPT or DROP"},
		{"-N FORWARD", "FORWARD is a built-in chain"},
		{"-N mine yours", `"yours" is too much`},
		{"-N a-name-that-iptables-does-not-take", "has 34 characters; iptables takes 28"},
		{"-A ctlab-anchor -j DROP", "chain ctlab-anchor is ctlab's own"},
		{`-A FORWARD -m comment --comment "open -j DROP`, "a quote is not closed"},
		{"*nat\n-A POSTROUTING -j MASQUERADE", "table nat has no COMMIT"},
		{"*nat\n*filter\nCOMMIT", "line 2: table nat has no COMMIT"},
		{"*nat\nCOMMIT\n-A FORWARD -j DROP", "line 3: \"-A FORWARD -j DROP\" stands outside a table"},
		{"*nat\n:mine\nCOMMIT", "line 2: \":mine\": want :CHAIN POLICY"},
		{"*nat\n-P PREROUTING DROP\nCOMMIT", "want -A CHAIN, as iptables-save prints it"},
		{"*broute\nCOMMIT", `line 1: table "broute" is not known`},
	} {
		expect(t, c.text, service.Check(service.Own{Name: "rules", Text: c.text}), c.want)
	}
}

func TestLines(t *testing.T) {
	loaded := []service.Own{
		{Name: "policy", Text: "-A FORWARD -s 10.0.0.1 -j ACCEPT\n-A FORWARD -s 10.0.0.2 -j DROP"},
		{Name: "dump", Text: "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT"},
	}
	for _, c := range []struct{ name, text, want string }{
		{"cut", "-I FORWARD -j DROP\n-A FORWARD -s 10.0.0.3 -j ACCEPT", "*filter\n" +
			"-I FORWARD -m comment --comment \"cut.1\" -j DROP\n" +
			"-A FORWARD -m comment --comment \"cut.2\" -s 10.0.0.3 -j ACCEPT\nCOMMIT\n"},
		{"", "-A FORWARD -j DROP", "*filter\n-A FORWARD -j DROP\nCOMMIT\n"},
		{"cut", "-D FORWARD -s 10.0.0.2 -j DROP\n-D FORWARD 1\n-t nat -D POSTROUTING -j MASQUERADE", "*filter\n" +
			"-D FORWARD -m comment --comment \"policy.2\" -s 10.0.0.2 -j DROP\n-D FORWARD 1\nCOMMIT\n" +
			"*nat\n-D POSTROUTING -m comment --comment \"dump.1\" -j MASQUERADE\nCOMMIT\n"},
		{"cut", "-D FORWARD -s 10.0.0.9 -j DROP", "*filter\n-D FORWARD -s 10.0.0.9 -j DROP\nCOMMIT\n"},
		{"cut", "-N mine\n-I FORWARD 3 -j mine\n-P INPUT DROP\n-F mine\n-X mine", "*filter\n:mine - [0:0]\n" +
			"-I FORWARD 3 -m comment --comment \"cut.1\" -j mine\n:INPUT DROP [0:0]\n-F mine\n-X mine\nCOMMIT\n"},
		{"cut", "-t nat -F", "*nat\n-F\nCOMMIT\n"},
	} {
		got, err := service.Lines(c.name, c.text, loaded...)
		if err != nil || got != c.want {
			t.Errorf("%q: %v, got\n%s", c.text, err, got)
		}
	}
}

func TestLinesRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "there are no rules in it"},
		{"*nat\n-F\nCOMMIT", "not what iptables-save prints"},
		{"-A FORWARD -j ACCEPT\n-F svc-dns", "line 2: chain svc-dns is a service's"},
		{"-t nat -I PREROUTING -j KUBE-SERVICES", "line 1: chain KUBE-SERVICES is a service's"},
		{"-F ctlab-anchor", "chain ctlab-anchor is ctlab's own"},
		{"-F", "-F wants a chain: all of filter has ctlab's anchor in it"},
		{"-t nat -X", "-X wants a chain"},
		{"-D FORWARD", "-D FORWARD wants a rule or its number"},
		{"-D FORWARD 1 -j DROP", "-D FORWARD wants a rule or its number"},
		{"-E a b", `"-E" is no command that ctlab knows; a line begins with -A, -I, -P, -N, -D, -F, -X`},
	} {
		_, err := service.Lines("cut", c.text)
		expect(t, c.text, err, c.want)
	}
}
