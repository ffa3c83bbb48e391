package lab

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestBad holds the errors of each broken file against its golden text.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			l, err := Load("lab.yaml", src, "")
			if err == nil {
				t.Fatalf("it loads: %+v", l)
			}
			checkErrors(t, src, err)
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", err.Error()+"\n")
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// checkErrors demands what is true of all errors: each has a place in the file, and printing one neither
// writes control characters nor very long lines.
func checkErrors(t *testing.T, src []byte, err error) {
	t.Helper()
	errs, ok := err.(Errors)
	if !ok || len(errs) == 0 {
		t.Fatalf("not a list of errors: %T %v", err, err)
	}
	lines := strings.Split(strings.TrimPrefix(string(src), "\uFEFF"), "\n")
	for i, e := range errs {
		if e.Pos.Line < 1 || e.Pos.Line > len(lines) {
			t.Fatalf("line %d of %d: %s", e.Pos.Line, len(lines), e.Msg)
		}
		line := strings.TrimSuffix(lines[e.Pos.Line-1], "\r")
		if e.Line != line || e.Pos.Col < 1 || e.Pos.Col > columns(line)+1 || e.Len < 1 {
			t.Fatalf("%v, %d characters, line %q: %s", e.Pos, e.Len, line, e.Msg)
		}
		if i > 0 && (errs[i-1].Pos.Line > e.Pos.Line || errs[i-1].Pos.Line == e.Pos.Line && errs[i-1].Pos.Col > e.Pos.Col) {
			t.Errorf("%v comes after %v", e.Pos, errs[i-1].Pos)
		}
		shown := strings.Split(e.Error(), "\n")
		if len(shown) != 3 || columns(shown[1]) > maxLine+len("12345 | ") {
			t.Errorf("not three short lines:\n%s", e.Error())
		}
	}
	if text := err.Error(); Escape(strings.ReplaceAll(text, "\n", "")) != strings.ReplaceAll(text, "\n", "") {
		t.Errorf("control characters in %q", text)
	}
}
