package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzLoad wants no panic, errors that lie in the file, and no file that loads while one of its variants
// does not.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		l, err := Load("lab.yaml", src, "")
		if err != nil {
			checkErrors(t, src, err)
			return
		}
		again, err := Load("lab.yaml", src, "")
		if err != nil || dump(l) != dump(again) {
			t.Fatalf("the second time it is another lab: %v", err)
		}
		for _, v := range l.Variants {
			if _, err := Load("lab.yaml", src, v.Name); err != nil {
				t.Fatalf("it loads, its variant %s does not: %v", v.Name, err)
			}
		}
	})
}

// many repeats a line with its number until the text has about 1 MB.
func many(head, line, tail string) string {
	var b strings.Builder
	b.WriteString(head)
	for i := 0; b.Len() < maxSize-len(tail)-100; i++ {
		b.WriteString(strings.ReplaceAll(line, "#", fmt.Sprint(i)))
	}
	return b.String() + tail
}

// hugeFiles are files of the largest size that are large in one way each.
func hugeFiles() map[string]string {
	head := "lab: x\nnodes:\n  node: {kind: router}\n  app: {}\n  h: {}\n"
	clients := "clients: {app: {dns: {server: h}}}\n"
	steps := clients + "steps:\n"
	wide := strings.Repeat("x", 56)
	return map[string]string{
		"nodes":             many("lab: x\nnodes:\n  node: {kind: router}\n", "  h#: {}\n", "steps: [{wait: 1s}]\n"),
		"long names":        many("lab: x\nnodes:\n", "  "+wide+"#: {uplink: "+wide+"x#}\n", "steps: [{wait: 1s}]\n"),
		"services":          many(head+"services:\n", "  s#: {ports: 53/udp}\n", "steps: [{wait: 1s}]\n"),
		"clients":           many(head+"clients:\n", "  c#: {on: app, dns: {server: h}}\n", "steps: [{wait: 1s}]\n"),
		"one port":          many(head+"clients:\n", "  c#: {on: app, dns: {server: h, source-port: 5}}\n", "steps: [{wait: 1s}]\n"),
		"steps":             many(head+steps, "  - {name: s#, query: app}\n", ""),
		"restarts":          many(head+"servers: {s: {on: h, dns: {}}}\nsteps:\n", "  - {restart: s}\n", ""),
		"entries":           many(head+steps+"  - check: node\n    want:\n      entries:\n", "        - udp app:# > any assured\n", ""),
		"bad entries":       many(head+steps+"  - check: node\n    want:\n      entries:\n", "        - udp app:# > any asured\n", ""),
		"backends":          many(head+"services:\n  s:\n    ports: 53/udp\n    backends: [", "app, ", "h]\n"+steps+"  - wait: 1s\n"),
		"sysctls":           many(head+"  o:\n    sysctls:\n", "      net.a#: 1\n", steps+"  - wait: 1s\n"),
		"unknown keys":      many(head+steps+"  - wait: 1s\n", "k#: 1\n", ""),
		"wide":              many("{lab: x, nodes: {node: {kind: router}}, steps: [{wait: 1s}], ", "k#: é, ", "}\n"),
		"tags":              many("[", "! a#, ", "]\n"),
		"aliases":           many("a: &a 1\nb: [", "*a, ", "]\n"),
		"variants":          many(head+steps+"  - {name: s, wait: 1s}\nvariants:\n", "  v#: {steps.s.wait: 2s}\n", ""),
		"edits":             many(head+steps+"  - {name: s, wait: 1s}\nvariants:\n  v:\n", "    nodes.node.sysctls.net.a#: 2\n", ""),
		"one long path":     many(head+steps+"  - {name: s, wait: 1s}\nvariants:\n  v:\n    ", "a.", ": 1\n"),
		"tabs":              strings.Repeat("\t\n", maxSize/2),
		"one line":          strings.Repeat("\x01", maxSize),
		"open":              strings.Repeat("[", maxSize),
		"deep":              strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
		"deep maps":         strings.Repeat("{a: ", 9000) + strings.Repeat("}", 9000),
		"comments":          strings.Repeat("a: 1 #\n#\n\n", maxSize/10),
		"a long scalar":     "about: " + strings.Repeat("é", maxSize/2-10),
		"a long duration":   "lab: x\nnodes: {n: {kind: router}}\nsteps: [{wait: " + strings.Repeat("1", maxSize-100) + "}]\n",
		"traps":             "a: [\n" + strings.Repeat("- *a: x\n", maxSize/8-1),
		"one long trap":     "a: [" + strings.Repeat("x{", maxSize/2-10),
		"quotes":            "a: [" + strings.Repeat("'", maxSize-10),
		"patterns":          many(head+"clients:\n", "  c#-{1..9999}: {on: app, dns: {server: h}}\n", "steps: [{wait: 1s}]\n"),
		"a long pattern":    head + "clients:\n  c-{1..9999}: {on: app, dns: {server: h, name: \"" + strings.Repeat("x", maxSize/2) + "{1..9999}\"}}\nsteps: [{wait: 1s}]\n",
		"globs":             many(head+"clients:\n  c-{1..9999}: {on: app, dns: {server: h}}\nsteps:\n", "  - query: [c-*, c*, c-7*]\n", ""),
		"many globs":        many(head+"clients:\n  c-{1..9999}: {on: app, dns: {server: h}}\nsteps:\n  - query: [", "c-#*, ", "c-1]\n"),
		"repetitions":       many(head+steps, "  - {name: s#, query: app, for: {n: 1..9999}}\n", ""),
		"a long repetition": head + steps + "  - {exec: [\"" + strings.Repeat("${n}", maxSize/8) + "\"], for: {n: 1..9999}}\n",
		"routes":            many("lab: x\nnodes:\n  app: {}\n  node:\n    kind: router\n    routes:\n", "      - 10.0.0.0/8 dev app\n", "steps: [{wait: 1s}]\n"),
		"bad routes":        many("lab: x\nnodes:\n  app: {}\n  node:\n    kind: router\n    routes:\n", "      - 10.0.0.0/8 via 1.2.3.4\n", "steps: [{wait: 1s}]\n"),
		"rules":             many("lab: x\nnodes:\n  node:\n    kind: router\n    rules:\n", "      r#: -A INPUT -j DROP\n", "steps: [{wait: 1s}]\n"),
		"servers":           many(head+"servers:\n", "  s#: {on: h, listen: 'any:#', dns: {}}\n", "steps: [{wait: 1s}]\n"),
		"same steps":        many(head+steps, "  - {name: s, query: app, want: {lost: {same-as: s.lost}}}\n", ""),
	}
}

// TestHuge reads files of the largest size that are large in one way each. Each takes well under a second,
// as the log shows; what grew with the square of the size would run into the test's time limit.
func TestHuge(t *testing.T) {
	for name, src := range hugeFiles() {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Load("lab.yaml", []byte(src), "")
			text := ""
			if err != nil {
				text = err.Error()
				checkErrors(t, []byte(src), err)
			}
			t.Logf("%s, %d bytes of errors", time.Since(start), len(text))
		})
	}
}
