//go:build linux

package observe

import (
	"fmt"

	"ctlab/checks/conntrack"
)

// TickCounter reads the kernel's tick counter itself, so that the Span of an act is exact. It needs root.
type TickCounter struct {
	jiffies *jiffies
	first   uint32
}

// OpenTickCounter opens the counter. The tick of now is 0.
func OpenTickCounter() (*TickCounter, error) {
	j, err := openJiffies()
	if err != nil {
		return nil, fmt.Errorf("open the tick counter: %w", err)
	}
	c := &TickCounter{jiffies: j}
	c.first, err = j.read()
	return c, err
}

// Now is the tick of now.
func (c *TickCounter) Now() conntrack.Tick {
	n, err := c.jiffies.read()
	if err != nil {
		panic(err) // it could be read when it was opened
	}
	return conntrack.Tick(int32(n - c.first))
}

// Close ends the use of the counter.
func (c *TickCounter) Close() error { return c.jiffies.close() }
