package guest

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
)

// crashLine matches the lines by which a kernel says that it is broken: panic.c (panic, __warn), dumpstack.c and traps.c of x86, bug.c,
// watchdog.c, hung_task.c, oom_kill.c and RCU's stall detector.
var crashLine = regexp.MustCompile(`Kernel panic - not syncing|\bOops\b|\bBUG:|kernel BUG at|Out of memory: |\bWARNING: |general protection fault|detected stall|self-detected stall|blocked for more than \d+ seconds`)

// console reads what the guest's kernel writes to its serial line.
type console struct {
	mu      sync.Mutex
	partial []byte
	tail    []string // the last lines
	ready   bool     // the line came that is written before the Hello
	crashes []string // lines that say that the kernel is broken, since then
	early   []string // and before
}

// Limits of what is kept of a console.
const (
	consoleLine = 1000
	consoleTail = 20
	consoleMost = 10
)

// Write takes what came. It never fails.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partial = append(c.partial, b...)
	for {
		i := bytes.IndexByte(c.partial, '\n')
		if i < 0 && len(c.partial) < consoleLine {
			return len(b), nil
		}
		if i < 0 {
			i = consoleLine - 1
		}
		c.line(strings.TrimRight(string(c.partial[:i]), "\r"))
		c.partial = c.partial[i+1:]
	}
}

func (c *console) line(l string) {
	if strings.TrimSpace(l) == "" {
		return
	}
	if c.tail = append(c.tail, l); len(c.tail) > consoleTail {
		c.tail = c.tail[1:]
	}
	switch {
	case strings.Contains(l, readyLine):
		c.ready = true
	case !crashLine.MatchString(l):
	case c.ready && len(c.crashes) < consoleMost:
		c.crashes = append(c.crashes, l)
	case !c.ready && len(c.early) < consoleMost:
		c.early = append(c.early, l)
	}
}

// said is what is known when the console is over.
func (c *console) said() (crashes, early, tail []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.partial) > 0 {
		c.line(string(c.partial))
		c.partial = nil
	}
	return c.crashes, c.early, c.tail
}
