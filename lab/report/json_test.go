package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"ctlab/checks/conntrack"
	"ctlab/checks/model"
	"ctlab/checks/trace"
	"ctlab/lab"
)

const schemaFile = "../../docs/result.schema.json"

// object is a JSON object of the schema.
type object = map[string]any

// choices are the fields that hold one of a few words.
func choices() map[string][]string {
	verdicts := []string{string(lab.Pass), string(lab.Fail), string(lab.Skipped), string(lab.Unclear), string(lab.Broken), string(lab.Interrupted)}
	return map[string][]string{
		"document.command": {"run", "predict", "compare"},
		"run.verdict":      verdicts,
		"row.verdict":      verdicts,
		"row.agreement":    {string(Agreed), string(Differ), string(Inconclusive), string(LeftOut), string(Predicted), string(NotCompared)},
		"attempt.class":    each(lab.Classes(), asString),
		"cleanup.order":    {"rules-first", "cleanup-first"},
		"model.verdict":    {string(trace.Same), string(trace.Different), string(trace.Inconclusive)},
		"event.kind":       {string(conntrack.New), string(conntrack.Update), string(conntrack.Destroy)},
	}
}

// docs/result.schema.json is made from the types of json.go and their comments (go test -update), and so
// has every field and no other.
func TestSchemaIsThatOfTheTypes(t *testing.T) {
	want, err := json.MarshalIndent(schemaOf(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not that of the types in json.go; go test ./lab/report -update makes it anew", schemaFile)
	}
}

func schemaOf(t *testing.T) object {
	g := generator{t: t, defs: object{}, docs: comments(t)}
	root := g.of(reflect.TypeFor[Document]())
	return object{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ctlab result",
		"description": "What ctlab run, predict and compare print with --json.", "$ref": root["$ref"], "$defs": g.defs,
	}
}

// comments are those of the fields in json.go, as TYPE.FIELD.
func comments(t *testing.T) map[string]string {
	f, err := parser.ParseFile(token.NewFileSet(), "json.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, field := range s.Fields.List {
				out[spec.Name.Name+"."+field.Names[0].Name] = strings.TrimSpace(field.Comment.Text())
			}
		}
		return true
	})
	return out
}

type generator struct {
	t    *testing.T
	defs object
	docs map[string]string
}

// def is the name of a struct type's definition.
func def(t reflect.Type) string { return strings.ToLower(strings.TrimPrefix(t.Name(), "json")) }

func (g *generator) of(t reflect.Type) object {
	switch t.Kind() {
	case reflect.Pointer:
		return g.of(t.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": g.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": g.of(t.Elem())}
	case reflect.Struct:
		g.define(t)
		return object{"$ref": "#/$defs/" + def(t)}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	}
	g.t.Fatalf("no schema for %s", t)
	return nil
}

func (g *generator) define(t reflect.Type) {
	if g.defs[def(t)] != nil {
		return
	}
	properties, required := object{}, []string{}
	g.defs[def(t)] = object{"type": "object", "additionalProperties": false, "properties": properties}
	for i := range t.NumField() {
		f := t.Field(i)
		name, opt, _ := strings.Cut(f.Tag.Get("json"), ",")
		p := g.of(f.Type)
		doc := g.docs[t.Name()+"."+f.Name]
		if doc == "" {
			g.t.Errorf("json.go: %s.%s has no comment", t.Name(), f.Name)
		}
		p["description"] = doc
		if words := choices()[def(t)+"."+name]; words != nil {
			p["enum"] = words
		}
		if name == "ctlab" {
			p["const"] = DocumentVersion
		}
		properties[name] = p
		if opt != "omitempty" {
			required = append(required, name)
		}
	}
	sort.Strings(required)
	g.defs[def(t)].(object)["required"] = required
}

// The documents of all kinds of results are valid, and so is one in which every field has a value.
func TestDocumentsAreValid(t *testing.T) {
	src, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema object
	if err := json.Unmarshal(src, &schema); err != nil {
		t.Fatal(err)
	}
	var runs []*lab.Result
	for _, make := range results() {
		runs = append(runs, make(t))
	}
	full := fullResult(t)
	documents := []Document{
		NewDocument("run", runs, nil, nil, 1), NewDocument("compare", runs, []Comparison{comparison(t)}, []string{"two-clients/heal"}, 130), NewDocument("predict", nil, nil, nil, 0),
		NewDocument("run", []*lab.Result{full}, []Comparison{Compare([]*lab.Result{full})}, nil, 5),
	}
	for _, d := range documents {
		for _, problem := range validate(schema, schema, decoded(t, d), "$") {
			t.Error(problem)
		}
	}
}

// decoded is a document as its readers see it.
func decoded(t *testing.T, d Document) any {
	t.Helper()
	var b bytes.Buffer
	if err := d.Write(&b); err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(b.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// fullResult has a value in every optional part.
func fullResult(t *testing.T) *lab.Result {
	r := variant(staleResult(t), "fix")
	r.Setting.Seed = 7
	r.Err = os.ErrClosed
	s := &r.Steps[2]
	s.Step.Name = "after"
	a := &s.Outcome.Attempts[0]
	a.From, a.Err = netip.MustParseAddrPort("10.0.0.1:53"), "x"
	a.After.Entry.Known, a.After.Age = ^conntrack.Fields(0), second
	s.Outcome.Programs = []lab.Program{{Exit: 1, Stdout: "\xff"}}
	r.Evidence.Final[0].Events = []conntrack.Event{{Kind: conntrack.New, Entry: a.After.Entry}}
	r.Evidence.Margins = []lab.Margin{{At: second, Node: "node", What: "?", Off: -time.Millisecond}}
	r.Comparisons[0].Differences = []trace.Difference{{What: "x", Why: "y"}}
	r.Comparisons[0].Free = map[model.ChoiceKind]int{model.ChoosePort: 1}
	return r
}

// The validator finds what the schema forbids; without this the test above could not fail.
func TestValidatorSharp(t *testing.T) {
	schema := schemaOf(t)
	var plain object // as it is read from its file
	b, _ := json.Marshal(schema)
	if err := json.Unmarshal(b, &plain); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(object){
		"another version":  func(d object) { d["ctlab"] = 2.0 },
		"a missing field":  func(d object) { delete(d, "exit") },
		"an unknown field": func(d object) { d["more"] = 1.0 },
		"null for a list":  func(d object) { d["runs"] = nil },
		"a wrong word":     func(d object) { d["command"] = "ran" },
		"a fraction":       func(d object) { d["exit"] = 0.5 },
		"a wrong type":     func(d object) { d["compared"] = "none" },
		"deep down":        func(d object) { d["runs"].([]any)[0].(object)["wants"].(object)["met"] = "1" },
	} {
		d := decoded(t, NewDocument("run", []*lab.Result{staleResult(t)}, nil, nil, 0)).(object)
		if p := validate(plain, plain, d, "$"); len(p) > 0 {
			t.Fatal(p)
		}
		spoil(d)
		if len(validate(plain, plain, d, "$")) == 0 {
			t.Errorf("%s is not found", name)
		}
	}
}

// validate holds a value against the part of JSON Schema that the generator writes. Libraries that know all
// of it are larger than ctlab's own report package.
func validate(root, schema object, v any, at string) (problems []string) {
	bad := func(format string, args ...any) {
		problems = append(problems, at+": "+fmt.Sprintf(format, args...))
	}
	if ref, ok := schema["$ref"].(string); ok {
		target := root["$defs"].(object)[strings.TrimPrefix(ref, "#/$defs/")].(object)
		problems = append(problems, validate(root, target, v, at)...)
	}
	if words, ok := schema["enum"].([]any); ok && !slices.Contains(words, v) {
		bad("%v is none of %v", v, words)
	}
	if c, ok := schema["const"]; ok && c != v {
		bad("%v is not %v", v, c)
	}
	switch schema["type"] {
	case "string":
		if _, ok := v.(string); !ok {
			bad("%v is no string", v)
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			bad("%v is no boolean", v)
		}
	case "integer":
		n, ok := v.(float64)
		least, bounded := schema["minimum"].(float64)
		if !ok || n != float64(int64(n)) || bounded && n < least {
			bad("%v is no such integer", v)
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			bad("%v is no array", v)
		}
		for i, x := range list {
			problems = append(problems, validate(root, schema["items"].(object), x, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case "object":
		o, ok := v.(object)
		if !ok {
			bad("%v is no object", v)
			return problems
		}
		problems = append(problems, validateObject(root, schema, o, at)...)
	}
	return problems
}

func validateObject(root, schema, o object, at string) (problems []string) {
	properties, _ := schema["properties"].(object)
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := o[name.(string)]; !ok {
			problems = append(problems, fmt.Sprintf("%s: %s is missing", at, name))
		}
	}
	for name, x := range o {
		s, ok := properties[name].(object)
		if !ok {
			s, ok = schema["additionalProperties"].(object)
		}
		if !ok {
			problems = append(problems, fmt.Sprintf("%s: %s is unknown", at, name))
			continue
		}
		problems = append(problems, validate(root, s, x, at+"."+name)...)
	}
	return problems
}
