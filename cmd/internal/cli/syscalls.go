package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/seccomp"
)

func newSyscalls() *cobra.Command {
	var asJSON, markdown bool
	cmd := &cobra.Command{
		Use:     "syscalls [--json|--markdown]",
		Short:   "Show which system calls lx serves, and why",
		Example: "  lx syscalls\n  lx syscalls --json",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch w := cmd.OutOrStdout(); {
			case asJSON:
				e := json.NewEncoder(w)
				e.SetIndent("", "  ")
				return e.Encode(seccomp.Table())
			case markdown:
				return seccomp.WriteMarkdown(w)
			default:
				return seccomp.WriteText(w)
			}
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&markdown, "markdown", false, "as a page of the documentation")
	cmd.MarkFlagsMutuallyExclusive("json", "markdown")
	return cmd
}
