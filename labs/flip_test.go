package labs_test

import (
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"ctlab/lab"
)

// flip is a lab whose cause or fix is taken away, so that its wants must fail.
type flip struct {
	variant variant
	what    string
	lab     *lab.Lab
}

// flips splits each variant that wants something else than the base: its changes with the base's wants, and the base's
// world with its wants.
func flips(t *testing.T) (out []flip) {
	t.Helper()
	for _, v := range all(t) {
		if v.name == "" {
			continue
		}
		wants, changes := split(t, v)
		if len(wants.Content) == 0 || len(changes.Content) == 0 {
			continue // it differs in what is done, or in what is wanted, only
		}
		for what, edits := range map[string]*yaml.Node{"its changes with the base's wants": changes, "the base with its wants": wants} {
			l, err := lab.Load(v.lab, withVariant(t, v, edits), v.name)
			if err != nil {
				continue // such wants make no sense there, which is a failure too
			}
			out = append(out, flip{v, what, l})
		}
	}
	return out
}

// A lab's wants fail when its cause or its fix is taken away. What no prediction can say is tried on the kernel, see
// TestWantsFailOnThisKernel.
func TestWantsFailWhenTheCauseIsTakenAway(t *testing.T) {
	unclear, flipped := notPredicted(t), map[string]bool{}
	for _, f := range flips(t) {
		flipped[f.variant.String()] = true
		if unclear[f.variant.String()] {
			continue
		}
		if r := predict(f.lab, seed); r.Verdict() != lab.Fail {
			t.Errorf("%s: %s: %s, and should fail\n%s", f.variant, f.what, r.Verdict(), text(t, r))
		}
	}
	if len(flipped) < 25 {
		t.Errorf("only %d variants were flipped", len(flipped))
	}
}

// document is a lab's text as a tree.
func document(t *testing.T, src []byte) *yaml.Node {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(src, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Content[0]
}

func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// split parts a variant's edits into those of wants and the others.
func split(t *testing.T, v variant) (wants, changes *yaml.Node) {
	t.Helper()
	edits := child(child(document(t, v.src), "variants"), v.name)
	wants, changes = &yaml.Node{Kind: yaml.MappingNode}, &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i+1 < len(edits.Content); i += 2 {
		path, value := edits.Content[i], edits.Content[i+1]
		switch {
		case path.Value == "about":
		case strings.HasSuffix(path.Value, ".want"):
			wants.Content = append(wants.Content, path, value)
		default:
			changes.Content = append(changes.Content, path, value)
		}
	}
	return wants, changes
}

// withVariant is the lab with other edits in the variant.
func withVariant(t *testing.T, v variant, edits *yaml.Node) []byte {
	t.Helper()
	doc := document(t, v.src)
	*child(child(doc, "variants"), v.name) = *edits
	out, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
