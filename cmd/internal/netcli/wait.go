package netcli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/netns"
)

func newWait(t term) *cobra.Command {
	var free bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait PORT",
		Short: "Wait until somebody receives on a port, or until it is free",
		Long: `wait returns when somebody listens on PORT (UDP: receives), or with --free when nobody
holds it. Exit code 1: not within the timeout.`,
		Example: "  lxnet wait 8080 --timeout 30s && curl localhost:8080\n  lxnet wait --free tcp/5432",
		Args:    command.OneArg("PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePort(args[0])
			if err != nil {
				return err
			}
			err = awaitPort(cmd.Context(), p, !free, nil, timeout)
			if errors.Is(err, errTimeout) {
				state := "nobody receives on"
				if free {
					state = "somebody still holds"
				}
				return fmt.Errorf("%s %s after %s", state, p, timeout)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&free, "free", false, "until nobody holds it")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this time; 0 waits for ever")
	return cmd
}

var (
	errTimeout = errors.New("timeout")
	errSeen    = errors.New("seen")
)

// awaitPort waits until the port in the own namespace is taken or free, whatever
// becomes of sockets with the cookies but. timeout 0 is none.
func awaitPort(ctx context.Context, p port, taken bool, but map[uint64]bool, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errTimeout)
		defer cancel()
	}
	r := netns.NewReader()
	defer r.Close()
	err := netns.Watch(ctx, r, p.query(false), func(s *netns.Snapshot, _ []netns.Event) error {
		now := slices.ContainsFunc(s.Entries, func(e netns.Entry) bool {
			return e.Namespace == s.Namespaces[0].Inode && !but[e.Cookie] && (!taken || e.State != netns.Bound)
		})
		if now == taken {
			return errSeen
		}
		return nil
	})
	switch {
	case errors.Is(err, errSeen):
		return nil
	case err == nil:
		return context.Cause(ctx)
	}
	return err
}
