package lab

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// ReadFile reads and validates the lab file at path; see Load.
func ReadFile(path, variant string) (*Lab, error) {
	f, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxSize+1)) // one byte too many says enough of a large file
	if err != nil {
		return nil, fileError(path, err)
	}
	return Load(path, src, variant)
}

// OpenFile opens a file for reading. Whatever is no plain file is refused before it is opened: opening a
// named pipe waits for its writer, perhaps for ever, and a device may have no end.
func OpenFile(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return nil, fmt.Errorf("%s: a folder, not a file", Escape(path))
	case !mode.IsRegular():
		return nil, fmt.Errorf("%s: %s, not a file; write what it gives to a file first", Escape(path), special(mode))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	return f, nil
}

// special is what a file is that is neither a plain one nor a folder.
func special(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// fileError names the file once, in words; the system's own text, where it is shown, is without the path.
func fileError(path string, err error) error {
	path = Escape(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: no such file", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: not readable", path)
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// Load reads and validates a lab. With a variant it is the lab that the variant makes; without one it is
// the lab as it is, and every variant is validated too. What is wrong with the text is an Errors.
func Load(file string, src []byte, variant string) (*Lab, error) {
	s := &source{file: file}
	root := parse(s, strings.TrimPrefix(string(src), "\uFEFF"))
	if root == nil {
		return nil, s.finish()
	}
	variants := readVariants(s, root)
	wanted := -1
	for i, v := range variants {
		if v.name.text == variant {
			wanted = i
		}
	}
	if variant != "" && wanted < 0 {
		return nil, noVariant(file, variant, variants)
	}
	all := variantNames(variants)
	d := decode(s, root, all, "")
	base, problems := d.lab, d.errs
	if variant == "" {
		s.errs = append(s.errs, problems...)
		validateVariants(s, root, variants, d)
	} else {
		base = decodeVariant(s, root, variants[wanted], all, problems)
	}
	if len(s.errs) > 0 {
		return nil, s.finish()
	}
	for _, v := range variants {
		base.Variants = append(base.Variants, Variant{Pos{file, v.name.line, v.name.col}, v.name.text, v.about})
	}
	base.Variant = variant
	return base, nil
}

// decode turns a tree into a lab, or into what is wrong with it. A variant is one of all; its edits are
// in the tree already.
func decode(s *source, root *node, all []string, variant string) *decoder {
	d := &decoder{
		source: &source{file: s.file, lines: s.lines}, lab: &Lab{File: s.file}, names: newNames(),
		sections: map[string]*node{}, broken: map[string]bool{}, variants: all, variant: variant,
	}
	if d.isMap("the file", root, "a map that begins with lab: NAME") {
		d.made = size(root)
		d.top(d.expand(root))
	}
	return d
}

// topKeys are the keys of a file. Sections are only kept here: they refer to each other, so they are
// read in an order of their own.
func topKeys() []key[*Lab] {
	return append([]key[*Lab]{
		{"lab", "the lab's name", identifier, func(d *decoder, l *Lab, f field) {
			if d.isScalar(f, "the lab's name") && d.isName(f.value, "lab") {
				l.Name = f.value.text
			}
		}},
		{"about", "in a sentence what the lab is about", line, func(d *decoder, l *Lab, f field) { l.About = d.text(f) }},
		{"says", "what people who have the problem say", oneOrMore(line), func(d *decoder, l *Lab, f field) { l.Says = d.texts(f) }},
		{"why", "the mechanism, in as many lines as it takes", text, readWhy},
		{"refs", "issues, pull requests, pages", oneOrMore(line), func(d *decoder, l *Lab, f field) { l.Refs = d.texts(f) }},
		{"needs", "what the machine must have; else the lab is skipped", object(needsKeys()), readNeeds},
		{"exclusive", "true: no other lab is played beside it", boolean, func(d *decoder, l *Lab, f field) { l.Exclusive = d.bool(f) }},
		{"model", "how the model takes part", object(modelKeys()), readModel},
		{"nodes", "network namespaces by their names; NAME-{1..40} stands for forty", named(object(nodeKeys())), section(mapping, "a map of nodes by their names")},
		{"services", "VIPs by their names", named(object(serviceKeys(), "ports")), section(mapping, "a map of services by their names")},
		{"servers", "programs that answer, by their names", named(object(serverKeys(), "on")), section(mapping, "a map of servers by their names")},
		{"clients", "programs that ask, by their names", named(object(clientKeys())), section(mapping, "a map of clients by their names")},
		{"steps", "what happens, in this order", steps, section(sequence, "a list of steps")},
		{"variants", "other forms of the lab: maps of a path, such as steps.NAME.want, and the value that replaces what is there", variantsShape, func(*decoder, *Lab, field) {}}, // read before the rest
	}, later[*Lab]("include", "links")...)
}

func section(want kind, what string) func(*decoder, *Lab, field) {
	return func(d *decoder, _ *Lab, f field) {
		if f.value.kind != want {
			d.wrongKind(f.name(), f.value, what)
			d.broken[f.name()] = true
			return
		}
		d.sections[f.name()] = f.value
	}
}

func readWhy(d *decoder, l *Lab, f field) {
	if d.isScalar(f, "a text") {
		l.Why = f.value.text
	}
}

func modelKeys() []key[*Lab] {
	return append([]key[*Lab]{
		{"skip", "why the model is left out", line, func(d *decoder, l *Lab, f field) { l.SkipModel = d.text(f) }},
	}, later[*Lab]("kernel")...)
}

func readModel(d *decoder, l *Lab, f field) {
	if !d.isMap(f.name(), f.value, "a map, such as {skip: WHY}") {
		return
	}
	readMap(d, "model", f.value.fields, modelKeys(), l)
	if len(f.value.fields) == 0 {
		d.fail(f.value, "model: {skip: WHY}", "model: an empty map")
	}
}

func (d *decoder) texts(f field) []string {
	var out []string
	for _, item := range d.list(f) {
		out = append(out, d.text(item))
	}
	return out
}

// top reads the file. Names are collected first, so that it does not matter where a section stands.
func (d *decoder) top(root *node) {
	readMap(d, "", root.fields, topKeys(), d.lab)
	for _, required := range []string{"lab", "nodes", "steps"} {
		if root.find(required) < 0 {
			d.report(root.line, root.col, 1, requiredHint(required), fmt.Sprintf("%q is missing", required))
			d.broken[required] = true
		}
	}
	d.declareAll(d.names.places, "nodes", "node", 5000)
	d.declareAll(d.names.places, "services", "service", 5000)
	d.declareAll(d.names.programs, "servers", "server", 5000)
	d.declareAll(d.names.programs, "clients", "client", 10000)
	d.readNodes()
	d.readServices()
	d.readServers()
	d.readClients()
	d.readSteps()
}

func requiredHint(section string) string {
	return map[string]string{
		"lab":   "lab: NAME",
		"nodes": "nodes: {node: {kind: router}, app: {}}",
		"steps": "steps: [{query: CLIENT}]",
	}[section]
}
