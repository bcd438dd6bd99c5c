package integration

import "fmt"

// exitCode ends a helper without a message.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// helpers are programs that run inside: the test binary with helperVar set.
var helpers = map[string]func(args []string) error{}

func runHelper(name string, args []string) error {
	f, ok := helpers[name]
	if !ok {
		return fmt.Errorf("no such helper")
	}
	return f(args)
}

// helper is the shell command that runs one of helpers.
func helper(name string) string { return helperVar + "=" + name + " " + helperPath }
