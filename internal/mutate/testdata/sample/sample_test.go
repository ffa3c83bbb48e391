package sample

import "testing"

func Test(t *testing.T) {
	for _, c := range []struct {
		age    int
		member bool
		want   int
	}{{17, false, 7}, {18, false, 10}, {17, true, 10}, {18, true, 10}} {
		if got := Price(c.age, c.member); got != c.want {
			t.Errorf("%v: %d", c, got)
		}
	}
	if Steps(5) != 5 || Endless(3) != 0 {
		t.Error("steps")
	}
}
