package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagError puts what is wrong with a flag into words: the library's hold those of strconv.
func flagError(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		f := value.GetFlag()
		return fmt.Errorf("--%s %q: want %s", f.Name, value.GetValue(), wanted(f.Value.Type()))
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w; %s --help lists them", err, cmd.CommandPath())
	}
	return err
}

// wanted is what a flag of a type takes.
func wanted(kind string) string {
	switch kind {
	case "bool":
		return "true or false"
	case "int":
		return "a whole number"
	case "uint64":
		return "a whole number from 0"
	}
	return "a " + kind
}

// arguments demands from least to most arguments; most is 0 where there is no end. What says what they are.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch n := len(args); {
		case n < least:
			return fmt.Errorf("which %s? $ %s", what, cmd.UseLine())
		case most > 0 && n > most:
			return fmt.Errorf("%d arguments: it takes one %s; $ %s", n, what, cmd.UseLine())
		}
		return nil
	}
}

// atLeastOne refuses a number of a flag that makes no sense.
func atLeastOne(flag string, n int) error {
	if n < 1 {
		return exit(exitBadInput, fmt.Errorf("%s %d: at least 1", flag, n))
	}
	return nil
}
