package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"ctlab/lab"
	"ctlab/lab/report"
)

// TestInterruptedSeveral interrupts two labs that play at once: both are handed over, and those that had not
// begun are named.
func TestInterruptedSeveral(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	both := make(chan string, 2)
	p := newPlayer(&bytes.Buffer{})
	p.play = func(ctx context.Context, l *lab.Lab, _ lab.Progress) *lab.Result {
		if both <- l.Name; len(both) == 2 {
			interrupt()
		}
		<-ctx.Done()
		return &lab.Result{Lab: l, Err: context.Cause(ctx)}
	}
	labs := []*lab.Lab{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "c", Variant: "v"}}
	var handed []string
	all, err := p.playAll(ctx, labs, 2, func(r *lab.Result) error {
		handed = append(handed, r.Lab.Name)
		return nil
	})
	if err != nil || all.code != exitInterrupted {
		t.Fatalf("exit %d, %v", all.code, err)
	}
	if !slices.Equal(handed, []string{"a", "b"}) || !slices.Equal(all.notBegun, []string{"c", "c/v"}) {
		t.Errorf("handed over: %v; not begun: %v", handed, all.notBegun)
	}
	var out bytes.Buffer
	if err := report.NotBegun(&out, all.notBegun); err != nil || out.String() != "\ninterrupted; 2 not begun: c, c/v\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := report.NewDocument("run", all.results, nil, all.notBegun, all.code).Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"error": "interrupted"`, `"not-begun": [`, `"c/v"`, `"exit": 130`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in %s", want, out.String())
		}
	}
}

// An exclusive lab waits until no other is played, and none begins meanwhile; the others do not wait for each other.
func TestExclusiveLabsArePlayedAlone(t *testing.T) {
	var m sync.RWMutex
	first, second := occupy(&m, false), occupy(&m, false)
	if m.TryLock() {
		t.Error("an exclusive lab would be played beside two others")
	}
	first()
	second()
	leave := occupy(&m, true)
	if m.TryRLock() {
		t.Error("another lab would be played beside an exclusive one")
	}
	leave()
	if !m.TryLock() {
		t.Error("it is over, and the place is taken")
	}
}
