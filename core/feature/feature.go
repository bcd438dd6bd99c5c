// Package feature lets tests pretend that the host lacks something, so that
// every fallback is walked: LX_FORCE_MISSING=name,name in the environment.
package feature

import (
	"os"
	"slices"
	"strings"
)

// Missing reports whether the environment says that the named feature is to be
// treated as absent. Probes of the real kernel come after it.
func Missing(name string) bool {
	return slices.Contains(strings.Split(os.Getenv("LX_FORCE_MISSING"), ","), name)
}
