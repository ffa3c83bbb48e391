//go:build !linux

package main

import "github.com/spf13/cobra"

func fuzzing(*cobra.Command, fuzzFlags) error { return able() }
