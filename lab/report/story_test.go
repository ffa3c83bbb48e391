package report

import (
	"fmt"
	"slices"
	"testing"
)

// TestFold leaves out the middle of a long flow, but not the packets that made its entry anew.
func TestFold(t *testing.T) {
	rows := func(n int, made ...int) []row {
		var out []row
		for i := range n {
			out = append(out, row{what: fmt.Sprint(i), became: "answered by x", made: slices.Contains(made, i)})
		}
		return out
	}
	for _, c := range []struct {
		rows []row
		want string
	}{
		{rows(14, 0), "[0 1 2 3 4 5 6 7 8 9 10 11 12 13]"},
		{rows(20, 0), "[0 1 2 3 4 5 6 7 8 9 7 more 17 18 19]"},
		{rows(30, 0, 15), "[0 1 2 3 4 5 6 7 8 9 5 more 15 11 more 27 28 29]"},
		{rows(30, 10, 12, 26), "[0 1 2 3 4 5 6 7 8 9 10 11 12 13 more 26 27 28 29]"},
	} {
		var got []string
		for _, r := range fold(c.rows) {
			got = append(got, r.what)
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("got %v, want %s", got, c.want)
		}
	}
}
