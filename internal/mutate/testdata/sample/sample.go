// Package sample has code that its tests see, and code that they do not.
package sample

// Price is told all about by the tests.
func Price(age int, member bool) int {
	price := 10
	if age < 18 && !member {
		price -= 3
	}
	return price
}

// Steps has a boundary that the tests never ask for.
func Steps(n int) (steps int) {
	for i := 0; i < n; i++ {
		if i > 100 {
			break
		}
		steps++
	}
	return steps
}

// Unused is never called.
func Unused(a, b bool) bool { return a || b }

// Endless would not end without its one statement.
func Endless(n int) int {
	for n > 0 {
		n--
	}
	return n
}
