package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"ctlab/checks/trace"
	"ctlab/lab"
)

// The elements of a JUnit report, as the readers of CI systems know them.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class    string         `xml:"classname,attr"`
		Name     string         `xml:"name,attr"`
		Time     string         `xml:"time,attr"`
		Failures []junitProblem `xml:"failure"`
		Error    *junitProblem  `xml:"error"`
		Skipped  *junitProblem  `xml:"skipped"`
	}
	junitProblem struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// JUnit writes runs as a JUnit report: a suite for each lab and variant, a case for each step, and one for
// the agreement of kernel and model.
func JUnit(w io.Writer, runs []*lab.Result) error {
	all := junitSuites{Name: "ctlab"}
	total := time.Duration(0)
	for _, r := range runs {
		s := newSuite(r)
		all.Suites = append(all.Suites, s)
		all.Tests, all.Failures, all.Errors, all.Skipped = all.Tests+s.Tests, all.Failures+s.Failures, all.Errors+s.Errors, all.Skipped+s.Skipped
		total += r.Wall
	}
	all.Time = seconds(total)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

func newSuite(r *lab.Result) junitSuite {
	name := r.Lab.Name
	if r.Lab.Variant != "" {
		name += "/" + r.Lab.Variant
	}
	s := junitSuite{Name: name, Time: seconds(r.Wall)}
	if r.Skipped != "" {
		s.Cases = []junitCase{{Class: name, Name: "the run", Time: seconds(0), Skipped: &junitProblem{Message: r.Skipped}}}
		s.Tests, s.Skipped = 1, 1
		return s
	}
	for i := range r.Steps {
		s.Cases = append(s.Cases, stepCase(name, &r.Steps[i]))
	}
	if problem := r.Problem(); problem != "" {
		s.Cases = append(s.Cases, junitCase{Class: name, Name: "the run", Time: seconds(0), Error: &junitProblem{first(problem), problem}})
	}
	s.Cases = append(s.Cases, modelCase(name, r))
	for _, c := range s.Cases {
		s.Tests++
		switch {
		case c.Error != nil:
			s.Errors++
		case c.Skipped != nil:
			s.Skipped++
		case len(c.Failures) > 0:
			s.Failures++
		}
	}
	return s
}

func first(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func stepCase(suite string, s *lab.StepResult) junitCase {
	name := fmt.Sprintf("%02d %s", s.Step.Index, title(s.Step))
	if s.Step.Name != "" {
		name += " (" + s.Step.Name + ")"
	}
	c := junitCase{Class: suite, Name: name, Time: seconds(s.Outcome.Ended - s.Outcome.Began)}
	if why := s.Outcome.NotPlayed; why != "" {
		c.Skipped = &junitProblem{Message: notSimulated(why)}
		return c
	}
	for _, w := range s.Wants {
		if w.OK {
			continue
		}
		text := fmt.Sprintf("%s\nwant  %s\ngot   %s\n", w.Pos, w.Want, w.Got)
		if w.Near != nil {
			text += fmt.Sprintf("near  %s\ndiffers in: %s\n", w.Near.Entry.Entry.String(), strings.Join(w.Near.Differs, ", "))
		}
		c.Failures = append(c.Failures, junitProblem{fmt.Sprintf("%s: want %s, got %s", w.Pos, w.Want, w.Got), text})
	}
	return c
}

// modelCase is the agreement of kernel and model on every tracked node.
func modelCase(suite string, r *lab.Result) junitCase {
	c := junitCase{Class: suite, Name: "kernel and model agree", Time: seconds(0)}
	switch {
	case r.Setting.Simulated:
		c.Skipped = &junitProblem{Message: "predicted: nothing was asked of a kernel"}
	case r.Lab.SkipModel != "":
		c.Skipped = &junitProblem{Message: "model left out: " + r.Lab.SkipModel}
	case len(r.Comparisons) == 0:
		c.Error = &junitProblem{Message: "nothing was compared"}
	}
	for _, m := range r.Comparisons {
		if c.Skipped != nil {
			break
		}
		switch m.Verdict() {
		case trace.Different:
			var lines []string
			for _, d := range m.Differences {
				lines = append(lines, d.String())
			}
			c.Failures = append(c.Failures, junitProblem{fmt.Sprintf("%s: %d fields differ", m.Header.Node, len(lines)), strings.Join(lines, "\n") + "\n"})
		case trace.Inconclusive:
			c.Error = &junitProblem{m.Header.Node + ": inconclusive", strings.Join(m.Lost, "\n")}
		}
	}
	return c
}
