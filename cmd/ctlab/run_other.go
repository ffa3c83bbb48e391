//go:build !linux

package main

import (
	"errors"

	"ctlab/lab"
)

func newWorld(*lab.Lab, string) (lab.World, func() []handle) { return nil, nil }

// able refuses: labs are played on a Linux kernel only.
func able() error {
	return exit(exitCannotRun, errors.New("playing labs needs Linux; ctlab predict, compare --predicted, explain, check and replay work here"))
}

func absent(*lab.Lab) string { return "" }

func cannotRun(error) *exitError { return nil }
