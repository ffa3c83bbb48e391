package model

import (
	"maps"
	"slices"
)

// Tables are the names of the tables that are loaded, in order.
func (rs *Ruleset) Tables() []string { return slices.Sorted(maps.Keys(rs.tables)) }
