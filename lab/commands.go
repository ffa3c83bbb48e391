package lab

import (
	"slices"
	"strings"
	"time"
)

// commandShape is a program and its arguments.
func commandShape() schema { return listOf(text)() }

// filesShape are texts by the names of files.
func filesShape() schema {
	s := valuesOf(func() schema {
		any := text()
		delete(any, "minLength")
		return any
	})()
	s["propertyNames"], s["minProperties"] = matching(`[^/]*[^./][^/]*`), 1
	return s
}

// readyShape is a port, or a text that a line of the output has.
func readyShape() schema {
	return either(wholeNumber(1, 65535), func() schema { return matching(formPort + `(?:/(?:udp|tcp))?`) }, object(readyKeys(), "line"))()
}

// command reads a program and its arguments.
func (d *decoder) command(f field) (argv []string) {
	if f.value.kind != sequence {
		hint := "[PROGRAM, ARGUMENT, ...]"
		if f.value.kind == scalar && f.value.style != block {
			hint = "[" + strings.Join(strings.Fields(f.value.text), ", ") + "]"
		}
		d.fail(f.value, hint, "exec: a command is a list; no shell reads it")
		return nil
	}
	if len(f.value.items) == 0 {
		d.fail(f.value, "[PROGRAM, ARGUMENT, ...]", "exec: no program")
		return nil
	}
	for _, item := range d.list(f) {
		if d.isScalar(item, "a program or an argument") {
			argv = append(argv, item.value.text)
		}
	}
	return argv
}

// files reads the files that a program finds.
func (d *decoder) files(f field) (files []File) {
	if !d.isMap(f.name(), f.value, "a map of texts by the names of files") {
		return nil
	}
	if len(f.value.fields) == 0 {
		d.fail(f.value, "leave it out", "files: an empty map")
	}
	for _, file := range f.value.fields {
		switch name := file.name(); {
		case strings.Contains(name, "/") || strings.Trim(name, ".") == "" || len(name) > 255:
			d.fail(file.key, "a name, such as Corefile", "files: a file's name has no slash, is more than dots, and has at most 255 bytes")
		case Escape(name) != name:
			d.fail(file.key, "a name, such as Corefile", "files: a file's name has only characters that can be seen")
		case file.value.kind != scalar:
			d.wrongKind("files."+name, file.value, "a text")
		default: // also an empty one
			files = append(files, File{name, file.value.text})
		}
	}
	return files
}

// readyDraft is a server's ready while it is read.
type readyDraft = serverDraft

func readyKeys() []key[*readyDraft] {
	return []key[*readyDraft]{
		{"line", "a text that a line of the program's output has", text, func(d *decoder, s *readyDraft, f field) { s.Ready.Line = d.text(f) }},
	}
}

// readReady reads PORT, PORT/udp, PORT/tcp, or a map.
func (d *decoder) readReady(s *serverDraft, f field) {
	s.ready = true
	if f.value.kind == mapping {
		context := "servers." + s.Name + ".ready"
		readMap(d, context, f.value.fields, readyKeys(), s)
		d.require(f, context, "line", "line: TEXT")
		return
	}
	if !d.isScalar(f, "a port, or {line: TEXT}") {
		return
	}
	number, proto, given := strings.Cut(f.value.text, "/")
	if given && proto != "udp" && proto != "tcp" {
		d.fail(f.value, "53/udp or 53/tcp", "ready: %q is no protocol", proto)
		return
	}
	port := *f.value
	port.text = number
	if n, ok := d.number(field{f.key, &port}, 1, 65535); ok {
		s.Ready.Port, s.Ready.TCP = uint16(n), proto == "tcp"
	}
}

// isProgram says what goes with a program only, or not with one. It reports whether this is one.
func (d *decoder) isProgram(context string, f field, exec *Command, only []string, other string, without []string) bool {
	if f.value.find("exec") < 0 {
		for _, name := range only {
			if i := f.value.find(name); i >= 0 {
				d.fail(f.value.fields[i].key, "exec: [PROGRAM, ARGUMENT, ...]", "%s: %s is for programs", context, name)
			}
		}
		return false
	}
	if i := f.value.find(other); i >= 0 {
		d.fail(f.value.fields[i].key, "leave one of them out", "%s: both exec and %s", context, other)
	}
	for _, name := range without {
		if i := f.value.find(name); i >= 0 {
			d.fail(f.value.fields[i].key, "leave it out", "%s: %s does not go with a program", context, name)
		}
	}
	return exec != nil
}

// programLimit is how long a program that a step waits for may take, unless the step has a deadline.
const programLimit = 30 * time.Second

// programs reports whether the step's clients are programs. Those and clients that ask have other outcomes, so that no
// step has both.
func (d *decoder) programs(s *stepDraft, f field) bool {
	isProgram := func(name string) bool { c := d.names.clients[name]; return c != nil && c.Exec != nil }
	first := slices.IndexFunc(s.Clients, isProgram)
	if first < 0 {
		return false
	}
	for _, name := range s.Clients {
		if !isProgram(name) {
			d.fail(f.value, "make two steps of it", "%s: %s is a program, and %s is none", s.Kind, s.Clients[first], name)
			break
		}
	}
	return true
}

func needsKeys() []key[*Lab] {
	return append([]key[*Lab]{
		{"programs", "programs that must be installed, by their names", oneOrMore(text), func(d *decoder, l *Lab, f field) { l.Needs.Programs = d.texts(f) }},
	}, later[*Lab]("kernel", "features", "cpus", "behaviour")...)
}

// readNeeds reads what a machine must have.
func readNeeds(d *decoder, l *Lab, f field) {
	if d.isMap(f.name(), f.value, "a map, such as {programs: [dig]}") {
		readMap(d, "needs", f.value.fields, needsKeys(), l)
		if len(f.value.fields) == 0 {
			d.fail(f.value, "needs: {programs: [dig]}", "needs: an empty map")
		}
	}
}
