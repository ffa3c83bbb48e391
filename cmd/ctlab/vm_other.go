//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func firstProcess() {}

func vmRun(*cobra.Command, []string, vmFlags) error {
	return exit(exitCannotRun, errors.New("guests are started on Linux only"))
}
