// Command lxnet tells who has which port, and why another cannot.
package main

import (
	"os"

	"github.com/lxbridge/lx/cmd/internal/netcli"
)

func main() { os.Exit(netcli.Main(os.Args[1:])) }
