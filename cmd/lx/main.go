// Command lx runs Linux programs in an environment in which mount works.
package main

import (
	"os"

	"github.com/lxbridge/lx/cmd/internal/broker"
	"github.com/lxbridge/lx/cmd/internal/cli"
	"github.com/lxbridge/lx/cmd/internal/keeper"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/service/runner"
	"github.com/lxbridge/lx/core/store"
	"github.com/lxbridge/lx/core/updates"
)

func main() {
	switch os.Args[0] {
	case env.RoleKeeper:
		os.Exit(keeper.Main())
	case env.RoleBroker:
		os.Exit(broker.Main())
	case env.RoleInit:
		os.Exit(env.Init())
	case env.RoleBoot:
		os.Exit(env.Boot())
	case runner.Role:
		os.Exit(runner.Main())
	case env.RoleProbe:
		os.Exit(cli.Probe())
	case env.RoleDaemon:
		os.Exit(cli.DaemonMain())
	case env.RoleTar:
		os.Exit(cli.Tar())
	case updates.Role:
		os.Exit(updates.Main())
	case store.RoleWorker:
		os.Exit(store.Worker())
	}
	os.Exit(cli.Main(os.Args[1:]))
}
