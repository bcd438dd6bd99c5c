// Command lxdev brings USB devices of other machines into environments.
package main

import (
	"os"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/devcli"
)

func main() {
	if os.Args[0] == api.RoleHub {
		os.Exit(devcli.HubMain())
	}
	os.Exit(devcli.Main(os.Args[1:]))
}
