package lab

import "strings"

const firstSourcePort = 40000

// socket is what only some clients can share.
type socket struct {
	node string
	port uint16
}

// assignPorts gives the clients their source ports: what they say, else 40000 for the first client of
// the file, 40001 for the second, and so on, whatever the others say.
func (d *decoder) assignPorts(drafts []*clientDraft) {
	taken := map[socket][]*clientDraft{}
	for i, c := range drafts {
		if c.Exec != nil {
			continue
		}
		at := c.name
		c.SourcePort = uint16(firstSourcePort + i)
		if c.source.key != nil {
			at = c.source.value
			c.SourcePort = d.sourcePort(c.source)
		}
		s := socket{c.On, c.SourcePort}
		if s.port == 0 || s.node == "" {
			continue
		}
		for _, other := range taken[s] {
			if !apart(c.Client, other.Client) {
				d.fail(at, "each client of a node has its own", "source-port: %d on %s is taken by %s (line %d)", s.port, s.node, other.Name, other.Pos.Line)
				break
			}
		}
		taken[s] = append(taken[s], c)
	}
}

// apart reports whether the answers to two sockets with one port can be told apart: both are connected
// and ask different addresses, or they are bound to different addresses.
func apart(a, b *Client) bool {
	if a.Source.IsValid() && b.Source.IsValid() && a.Source != b.Source {
		return true
	}
	return a.Connected && b.Connected && a.To != b.To
}

func (d *decoder) sourcePort(f field) uint16 {
	if v := f.value; v.kind == scalar && v.text == "fresh" {
		return 0
	}
	if v := f.value; v.kind == sequence || v.kind == scalar && strings.Contains(v.text, "..") {
		d.fail(v, "a number, or fresh; a range is dealt out over a pattern such as app-{1..40}", "source-port: more than one port of a client is not supported yet")
		return 0
	}
	n, _ := d.number(f, 1, 65535)
	return uint16(n)
}
