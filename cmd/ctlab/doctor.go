package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newDoctor() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "say what this machine can run, what it lacks, and the command that mends it",
		Long: `Tries everything that playing labs needs of this machine, in namespaces of its own: privileges, user namespaces,
both back ends of iptables, what the kernel has of netfilter, optional programs. Each line says what it is for and,
where something is missing, the command that mends it. Exit 3 if no lab can be run here.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := examine(cmd.Context())
			if err != nil {
				return err
			}
			write := writeFindings
			if asJSON {
				write = writeFindingsJSON
			}
			if err := write(cmd.OutOrStdout(), found); err != nil {
				return exit(exitBroken, fmt.Errorf("write findings: %w", err))
			}
			for _, f := range found {
				if f.State == "MISSING" {
					return exit(exitCannotRun, nil)
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON list of what was found")
	return c
}

// finding is a line of the doctor's; live.Finding says what the fields are.
type finding struct {
	What   string `json:"what"`
	State  string `json:"state"` // ok, absent or MISSING
	Detail string `json:"detail,omitempty"`
	For    string `json:"for"`
	Mend   string `json:"mend,omitempty"`
}

func writeFindings(w io.Writer, found []finding) error {
	for _, f := range found {
		said := f.For
		if f.Detail != "" {
			said += ": " + f.Detail
		}
		if _, err := fmt.Fprintf(w, "%-8s %-20s %s\n", f.State, f.What, said); err != nil {
			return err
		}
		if f.Mend != "" {
			if _, err := fmt.Fprintf(w, "%-8s %-20s $ %s\n", "", "", f.Mend); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeFindingsJSON(w io.Writer, found []finding) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(found)
}
