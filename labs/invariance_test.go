package labs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"ctlab/lab"
)

// A lab's verdict does not depend on what its nodes are called, which addresses and ports they have, or in
// which order its maps stand: every lab is played with all names changed, all addresses and ports moved and
// all maps shuffled, and every want is met or missed as before.
func TestNamesAddressesPortsAndOrderDoNotMatter(t *testing.T) {
	for _, v := range all(t) {
		moved := disguise(t, v.src, 1)
		l, err := lab.Load(v.lab, moved, v.name)
		if err != nil {
			t.Errorf("%s: %v\n%s", v, err, moved)
			continue
		}
		want, got := predict(v.load(t), seed), predict(l, seed)
		if a, b := met(want), met(got); a != b || want.Verdict() != got.Verdict() {
			t.Errorf("%s: %s, wants %s; disguised: %s, wants %s\n%s", v, want.Verdict(), a, got.Verdict(), b, text(t, got))
		}
	}
}

// met says of each step how many of its wants were met. They are counted, as shuffled maps give them another
// order.
func met(r *lab.Result) string {
	var out []string
	for _, s := range r.Steps {
		n := 0
		for _, w := range s.Wants {
			if w.OK {
				n++
			}
		}
		out = append(out, fmt.Sprintf("%d/%d", n, len(s.Wants)))
	}
	return strings.Join(out, " ")
}

// disguise changes names, addresses, ports and the order of maps.
func disguise(t *testing.T, src []byte, seed uint64) []byte {
	t.Helper()
	doc := document(t, src)
	d := &disguiser{names: map[string]bool{}, nodes: map[string]bool{}, rng: rand.New(rand.NewPCG(seed, seed))}
	for _, section := range []string{"nodes", "services", "servers", "clients"} {
		for i, n := range content(child(doc, section)) {
			if i%2 == 0 {
				name, _, _ := strings.Cut(n.Value, "{")
				d.names[name] = true
				d.nodes[name] = d.nodes[name] || section == "nodes"
			}
		}
	}
	d.listen(doc)
	d.walk(doc, "")
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	if err := e.Encode(doc); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func content(n *yaml.Node) []*yaml.Node {
	if n == nil {
		return nil
	}
	return n.Content
}

type disguiser struct {
	names map[string]bool
	nodes map[string]bool
	rng   *rand.Rand
}

const (
	dnsPort   = "53"
	movedPort = "1053"
	portShift = 1111
)

// listen lets every server answer at the moved port, wherever the lab says that one stands.
func (d *disguiser) listen(doc *yaml.Node) {
	servers := child(doc, "servers")
	for i := 1; i < len(content(servers)); i += 2 {
		listenAt(servers.Content[i])
	}
	variants := child(doc, "variants")
	for i := 1; i < len(content(variants)); i += 2 {
		edits := variants.Content[i]
		for j := 0; j+1 < len(edits.Content); j += 2 {
			path, value := edits.Content[j].Value, edits.Content[j+1]
			switch parts := strings.Split(path, "."); {
			case parts[0] == "servers" && len(parts) == 2 && value.Kind == yaml.MappingNode:
				listenAt(value)
			case parts[0] == "servers" && len(parts) == 3 && parts[2] == "listen":
				value.Value += ":" + dnsPort
			}
		}
	}
}

func listenAt(server *yaml.Node) {
	if l := child(server, "listen"); l != nil {
		l.Value += ":" + dnsPort
		return
	}
	server.Content = append(server.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "listen"}, &yaml.Node{Kind: yaml.ScalarNode, Value: dnsPort})
}

// prose is not touched, and some numbers are no ports.
var prose = []string{"lab", "about", "says", "why", "refs"}

func (d *disguiser) walk(n *yaml.Node, key string) {
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	switch n.Kind {
	case yaml.MappingNode:
		type pair struct{ key, value *yaml.Node }
		var pairs []pair
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			k.HeadComment, k.LineComment, k.FootComment = "", "", ""
			if slices.Contains(prose, k.Value) {
				pairs = append(pairs, pair{k, v})
				continue
			}
			d.walk(v, k.Value)
			k.Value = d.text(k.Value)
			pairs = append(pairs, pair{k, v})
		}
		d.rng.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
		n.Content = n.Content[:0]
		for _, p := range pairs {
			n.Content = append(n.Content, p.key, p.value)
		}
	case yaml.SequenceNode:
		for _, item := range n.Content {
			d.walk(item, key)
		}
	case yaml.ScalarNode:
		n.Value, n.Style = d.scalar(key, n.Value), 0
		if strings.ContainsAny(n.Value, "{}*") {
			n.Style = yaml.DoubleQuotedStyle
		}
	}
}

// scalar moves a value: where the key says that it is a port, the number.
func (d *disguiser) scalar(key, s string) string {
	key = key[strings.LastIndexByte(key, '.')+1:] // of a variant's path
	switch {
	case key == "source-port":
		return numbers.ReplaceAllStringFunc(s, shift)
	case key == "port" || key == "target-port" || key == "node-port" || key == "listen" && s == dnsPort:
		return shift(s)
	case key == "server" && !strings.Contains(s, ":") && (!d.names[s] || d.nodes[s]):
		return d.text(s) + ":" + movedPort // an address or a node alone means port 53
	}
	return d.text(s)
}

var (
	words     = regexp.MustCompile(`[a-z][a-z0-9-]*`)
	addresses = regexp.MustCompile(`\b(\d+)\.(\d+)\.(\d+)\.(\d+)\b`)
	ports     = regexp.MustCompile(`(:|--dport |--sport )(\d+)(\.\.\d+)?`)
	published = regexp.MustCompile(`\b(\d+)/(udp|tcp)\b`)
	numbers   = regexp.MustCompile(`\d+`)
)

// text changes what stands in lines: names, addresses, ports behind a colon.
func (d *disguiser) text(s string) string {
	s = published.ReplaceAllStringFunc(s, func(m string) string {
		n, proto, _ := strings.Cut(m, "/")
		return shift(n) + "/" + proto
	})
	s = ports.ReplaceAllStringFunc(s, func(m string) string {
		return numbers.ReplaceAllStringFunc(m, shift)
	})
	s = addresses.ReplaceAllStringFunc(s, func(m string) string {
		p := strings.Split(m, ".")
		b, _ := strconv.Atoi(p[1])
		return fmt.Sprintf("%s.%d.%s.%s", p[0], b^1, p[2], p[3])
	})
	return words.ReplaceAllStringFunc(s, func(w string) string {
		if d.names[w] || strings.HasSuffix(w, "-") && d.hasPrefix(w) || d.numbered(w) {
			return "x" + w
		}
		return w
	})
}

// numbered is a name that a pattern stands for, such as app-7 of app-{1..40}.
func (d *disguiser) numbered(w string) bool {
	return d.names[strings.TrimRight(w, "0123456789")]
}

func (d *disguiser) hasPrefix(w string) bool {
	for n := range d.names {
		if strings.HasPrefix(n, w) {
			return true
		}
	}
	return false
}

// shift moves a port: DNS to 1053, the others by a fixed distance, within 16 bits.
func shift(port string) string {
	n, err := strconv.Atoi(port)
	switch {
	case port == dnsPort:
		return movedPort
	case err != nil || n < 1024 || n > 60000:
		return port
	}
	return strconv.Itoa(n + portShift)
}
