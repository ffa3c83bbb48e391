// Package story reads the stories of the model (checks/model/testdata/stories): what goes into a namespace, in the
// words of a trace. It turns them into the text of a trace, and knows neither the model nor a kernel.
package story

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// HZ is how many ticks a second has in a story.
const HZ = 250

// Lines turns lines of one story into lines of a trace.
type Lines struct {
	packets int // so far
}

var ticksWord = regexp.MustCompile(`^\d+(\.\.\d+)?$`)

// Line completes "SECONDS [TICKS] KIND ARGS" with what a trace has besides: in or seen, the ticks where they follow
// from the time, and of a packet len 60, ttl 64, an ip-id of its own, and df if the node itself sends it. Text below a record, comments and empty
// lines stay as they are.
func (l *Lines) Line(line string) string {
	if line == "" || line[0] == '#' || line[0] == '\t' {
		return line
	}
	at, rest, _ := strings.Cut(line, " ")
	ticks, after, ok := strings.Cut(rest, " ")
	if ok && ticksWord.MatchString(ticks) {
		rest = after
	} else {
		seconds, _ := strconv.ParseFloat(at, 64) // what is no number, the reader of the trace refuses
		ticks = strconv.Itoa(int(seconds*HZ + 0.001))
	}
	kind, _, _ := strings.Cut(rest, " ")
	side := "in"
	switch kind {
	case "count": // of a trace it has a number
		side, rest = "seen", "count 0"
	case "stats", "hits":
		side = "seen"
	case "packet", "send":
		rest = l.packet(rest, kind == "send")
	}
	return strings.Join([]string{side, at, ticks, rest}, " ")
}

func (l *Lines) packet(rest string, own bool) string {
	l.packets++
	if strings.Contains(rest, " len ") {
		return rest
	}
	head, bad, broken := strings.Cut(rest, " bad ")
	rest = fmt.Sprintf("%s len 60 ttl 64 ip-id %d", head, l.packets)
	if own { // as sockets do (ip_dont_fragment)
		rest += " df"
	}
	if broken {
		rest += " bad " + bad
	}
	return rest
}

// Given is the text of a file of inputs that stand without a time: each is at time 0.
func Given(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line != "\n" && line[0] != '#' && line[0] != '\t' {
			line = "0 " + line
		}
		b.WriteString(line)
	}
	return b.String()
}

// Story is what goes in, of a whole story.
type Story struct {
	Name      string
	Profile   string // of which kernel it tells, or "" for the newest
	ModelOnly string // why no kernel can be held against it as it stands, or ""
	Trace     string // the inputs, and the looks at counters, as lines of a trace
}

// Read reads a story, without what is to come of it.
func Read(path string) (s Story, err error) {
	s.Name = strings.TrimSuffix(filepath.Base(path), ".txt")
	text, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read story: %w", err)
	}
	var in strings.Builder
	lines := &Lines{}
	add := func(text string) {
		for line := range strings.Lines(text) {
			in.WriteString(lines.Line(strings.TrimSuffix(line, "\n")) + "\n")
		}
	}
	for block := range strings.SplitSeq(string(text), "\n\n") {
		head, input := s.head(block)
		words := strings.Fields(head)
		switch {
		case len(words) == 0:
		case words[0] == "profile":
			s.Profile = words[1]
		case words[0] == "given":
			for _, name := range words[1:] {
				given, err := os.ReadFile(filepath.Join(filepath.Dir(path), "given", name))
				if err != nil {
					return s, fmt.Errorf("story %s: %w", s.Name, err)
				}
				add(Given(string(given)))
			}
			add(Given(input))
		case words[0] == "play":
			add(input)
		}
	}
	s.Trace = in.String()
	return s, nil
}

// head is a block's first line that is no comment, and what is between it and the result.
func (s *Story) head(block string) (head, input string) {
	block, _, _ = strings.Cut(block+"\n", "\n----\n")
	for rest := block + "\n"; rest != ""; {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if why, ok := strings.CutPrefix(line, "# model only: "); ok {
			s.ModelOnly = why
		}
		if line != "" && line[0] != '#' {
			return line, rest
		}
	}
	return "", ""
}
