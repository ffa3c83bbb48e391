package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"strings"
	"testing"

	"ctlab/checks/trace"
	"ctlab/lab"
)

func parsedJUnit(t *testing.T, runs ...*lab.Result) junitSuites {
	t.Helper()
	var b bytes.Buffer
	if err := JUnit(&b, runs); err != nil {
		t.Fatal(err)
	}
	var all junitSuites
	if err := xml.Unmarshal(b.Bytes(), &all); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	return all
}

// A suite a run, a case a step, the failures of wants with their places; whatever a lab says, it is XML.
func TestJUnit(t *testing.T) {
	failed := staleResult(t)
	failed.Lab.Name, failed.Steps[0].Step.Name = `<&">`, "bad \x00 \xff name"
	differs := variant(healthyResult(t), "fix")
	differs.Comparisons[0].Differences = []trace.Difference{{What: "udp a > b", Field: "status", Kernel: "k", Model: "m"}}
	broken := healthyResult(t)
	broken.Err = errors.New("the link is gone\nand more")
	all := parsedJUnit(t, failed, differs, predictedResult(t), broken)
	if len(all.Suites) != 4 || all.Tests != 4+2+3+3 || all.Failures != 2 || all.Skipped != 2 || all.Errors != 3 {
		t.Errorf("%d suites, %d tests, %d failures, %d skipped, %d errors", len(all.Suites), all.Tests, all.Failures, all.Skipped, all.Errors)
	}
	first := all.Suites[0]
	if first.Name != `<&">` || len(first.Cases) != 4 {
		t.Errorf("%+v", first)
	}
	f := first.Cases[2].Failures
	if len(f) != 1 || !strings.Contains(f[0].Message, "x.yaml:41:13: want answered: all, got 0 of 5") || !strings.Contains(f[0].Text, "differs in: reply source") {
		t.Errorf("%+v", f)
	}
	if m := all.Suites[1].Cases[1]; m.Name != "kernel and model agree" || len(m.Failures) != 1 || !strings.Contains(m.Failures[0].Text, "kernel k, model m") {
		t.Errorf("%+v", m)
	}
	if p := all.Suites[2].Cases; p[1].Skipped == nil || !strings.Contains(p[1].Skipped.Message, "a program needs a kernel") || p[2].Skipped == nil {
		t.Errorf("%+v", p)
	}
}
