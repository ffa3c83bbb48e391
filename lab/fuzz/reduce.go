package fuzz

import "slices"

// reduce leaves out of n parts as many as it can (delta debugging). try plays sets of parts, and says of each whether
// it still shows what is looked for; it says so for none when there is no more time. Whole stretches are left out
// first, then shorter ones, at last single parts. All sets of a round are tried at once: what could be left out alone
// is then tried together. The result depends on nothing but the answers.
func reduce(n int, try func(sets [][]int) []bool) []int {
	kept := make([]int, n)
	for i := range kept {
		kept[i] = i
	}
	for size := (n + stretches - 1) / stretches; size > 0 && len(kept) > 0; {
		less := shorten(kept, size, try)
		switch {
		case len(less) < len(kept):
			kept = less
			size = min(size, (len(kept)+1)/2)
		case size == 1:
			return kept
		default:
			size = (size + 1) / 2
		}
	}
	return kept
}

// stretches is how many stretches the parts are divided into at first.
const stretches = 8

// shorten leaves out stretches of a size. It returns what it was given if none can be left out.
func shorten(kept []int, size int, try func([][]int) []bool) []int {
	var parts, sets [][]int
	for from := 0; from < len(kept); from += size {
		parts = append(parts, kept[from:min(from+size, len(kept))])
		sets = append(sets, without(kept, parts[len(parts)-1]))
	}
	var free [][]int // stretches that can be left out, each alone
	for i, ok := range try(sets) {
		if ok {
			free = append(free, parts[i])
		}
	}
	if len(free) < 2 {
		return without(kept, free...)
	}
	half := (len(free) + 1) / 2
	sets = [][]int{without(kept, free...), without(kept, free[:half]...), without(kept, free[half:]...)}
	if ok := slices.Index(try(sets), true); ok >= 0 {
		return sets[ok]
	}
	return without(kept, free[0])
}

// without is what is left without some stretches.
func without(kept []int, stretches ...[]int) []int {
	return slices.DeleteFunc(slices.Clone(kept), func(part int) bool {
		return slices.ContainsFunc(stretches, func(s []int) bool { return slices.Contains(s, part) })
	})
}
