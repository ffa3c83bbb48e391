package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// TestSchemaFile holds the schema that editors are pointed to against the one that ctlab prints.
func TestSchemaFile(t *testing.T) {
	src, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "../docs/lab.schema.json", string(src))
}

// TestSchemaAccepts wants every lab that is valid to be so by the schema, its variants' edits included.
func TestSchemaAccepts(t *testing.T) {
	s := compiled(t)
	for _, file := range glob(t, "../labs/*.yaml", "testdata/good/*.yaml") {
		root, err := instance(t, file)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if err := s.Validate(root); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestSchemaRefuses lists the broken files that the schema does not catch: what is wrong with them is not
// their form. Files that are no YAML at all are any editor's to mark.
func TestSchemaRefuses(t *testing.T) {
	s := compiled(t)
	var missed strings.Builder
	for _, file := range glob(t, "testdata/bad/*.yaml") {
		root, err := instance(t, file)
		if err != nil {
			continue
		}
		if s.Validate(root) == nil {
			fmt.Fprintln(&missed, strings.TrimSuffix(filepath.Base(file), ".yaml"))
		}
	}
	golden(t, "testdata/schema-misses.txt", missed.String())
}

// FuzzSchema wants every file that loads to be valid by the schema: an editor must not mark what is right.
func FuzzSchema(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "../labs/*.yaml"} {
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
	s := compiled(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		if _, err := Load("lab.yaml", src, ""); err != nil {
			return
		}
		doc, err := readYAML(strings.TrimPrefix(string(src), "\uFEFF"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(value(doc.Content[0])); err != nil {
			t.Errorf("%v\n%s", err, src)
		}
	})
}

// TestSchemaMutants changes a valid lab in one place each; the schema has to see it, and so has Load.
func TestSchemaMutants(t *testing.T) {
	src, err := os.ReadFile("testdata/good/flagship.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := compiled(t)
	for _, c := range []struct{ old, new string }{
		{"kind: router", "kind: switch"},
		{"vip: 10.96.0.10", "vip: 10.96.0.300"},
		{"cleanup: none", "cleanup: nonne"},
		{"53/udp", "53"},
		{"53/udp", "70000/udp"},
		{"source-port: 40053", "source-port: 70000"},
		{"source-port: 40053", "sourceport: 40053"},
		{"timeout: 300ms", "timeout: 300"},
		{"control: true", "control: yes"},
		{"death: address", "death: explode"},
		{"count: 3", "count: 3.5"},
		{"count: 3", "count: three"},
		{"on: coredns-2, ", "off: coredns-2, "},
		{"timeout: all", "timeout: al"},
		{"query: app", "quary: app"},
		{"| coredns-1:53 > app:40053 assured stale", "| coredns-1:53"},
		{"check: node", "check: node\n    query: app"},
		{"- name: table", "- name: Table"},
	} {
		if !strings.Contains(string(src), c.old) {
			t.Errorf("the lab has no %q", c.old)
			continue
		}
		mutant := strings.Replace(string(src), c.old, c.new, 1)
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(mutant), &doc); err != nil {
			t.Fatal(err)
		}
		if s.Validate(value(doc.Content[0])) == nil {
			t.Errorf("the schema accepts %q", c.new)
		}
		if _, err := Load("x", []byte(mutant), ""); err == nil {
			t.Errorf("Load accepts %q", c.new)
		}
	}
}

// TestSchemaDescribes wants words for every key, which editors show.
func TestSchemaDescribes(t *testing.T) {
	keys := 0
	var walk func(path string, s any)
	walk = func(path string, s any) {
		switch s := s.(type) {
		case schema:
			if p, ok := s["properties"].(map[string]schema); ok {
				for name, inner := range p {
					keys++
					if inner["description"] == nil || inner["description"] == "" {
						t.Errorf("%s.%s has no description", path, name)
					}
				}
			}
			for key, inner := range s {
				walk(path+"."+key, inner)
			}
		case map[string]schema:
			for name, inner := range s {
				walk(path+"."+name, inner)
			}
		case []schema:
			for i, inner := range s {
				walk(fmt.Sprintf("%s.%d", path, i), inner)
			}
		}
	}
	walk("", object(topKeys())())
	for name, s := range definitions() {
		walk(name, s())
	}
	if keys < 150 {
		t.Errorf("only %d keys", keys)
	}
}

func compiled(t testing.TB) *jsonschema.Schema {
	t.Helper()
	src, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(src))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("lab.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("lab.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, p := range patterns {
		files, err := filepath.Glob(p)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", p, len(files), err)
		}
		all = append(all, files...)
	}
	return all
}

// instance is a file as editors hand it to a schema; the error is one of YAML.
func instance(t *testing.T, file string) (any, error) {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s source
	checkText(&s, string(src))
	if len(s.errs) > 0 {
		return nil, s.errs[0]
	}
	doc, err := readYAML(string(src))
	if err != nil {
		return nil, err
	}
	return value(doc.Content[0]), nil
}

var (
	coreInt   = regexp.MustCompile(`^([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$`)
	coreFloat = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
)

// value is a node by the core schema of YAML 1.2, which editors use. What an alias stands for is left out: it
// may be without end.
func value(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = value(n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range n.Content {
			list = append(list, value(item))
		}
		return list
	case yaml.AliasNode:
		return "*" + n.Value
	}
	text := n.Value
	switch {
	case n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return text
	case isNull(text):
		return nil
	case slices.Contains([]string{"true", "True", "TRUE"}, text):
		return true
	case slices.Contains([]string{"false", "False", "FALSE"}, text):
		return false
	case coreInt.MatchString(text):
		base := 10
		if strings.HasPrefix(text, "0o") || strings.HasPrefix(text, "0x") {
			base = 0
		}
		if v, err := strconv.ParseInt(text, base, 64); err == nil {
			return float64(v)
		}
	case coreFloat.MatchString(text):
		if v, err := strconv.ParseFloat(text, 64); err == nil {
			return v
		}
	}
	return text
}
