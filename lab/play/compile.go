package play

import (
	"errors"

	"ctlab/checks/conntrack"
	"ctlab/topology/service"
)

// These four stand in for what topology/service is about to have.

func compileRules(services []service.Service, own []service.Own, anchored bool) (string, error) {
	if len(own) > 0 {
		return "", errors.New("rules of a lab's own are not supported yet")
	}
	return service.Rules(services, anchored), nil
}

func compileChange(all []service.Service, changed string, anchored bool) string {
	for _, s := range all {
		if s.Name == changed {
			return service.Change(s, anchored)
		}
	}
	return ""
}

func staleEntries(mode service.Mode, _, after service.Service, table []conntrack.Entry) []conntrack.Entry {
	return service.StaleEntries(after, table)
}

func compileLines(_, _ string) (string, error) {
	return "", errors.New("rules of a lab's own are not supported yet")
}
