// Package updates tells how far an environment is behind its distribution. The
// distribution's own package manager is asked, inside, with lists and caches in
// a directory of its own: the system's are neither used nor changed.
package updates

import (
	"fmt"
	"time"
)

// Package is one that is behind.
type Package struct {
	Name string `json:"name"`
	// Installed is empty where the manager does not tell.
	Installed string `json:"installed,omitempty"`
	Available string `json:"available"`
	Security  bool   `json:"security,omitempty"`
}

// Listing is what a manager tells.
type Listing struct {
	Packages []Package `json:"packages,omitempty"`
	// Security counts the updates that mend a vulnerability – for zypper its
	// patches, each of which may be of several packages. It is nil where the
	// distribution does not tell: Alpine's and Arch's.
	Security *int `json:"security,omitempty"`
}

// Report is what a check found.
type Report struct {
	// Off: the environment's own configuration wants no checks.
	Off bool `json:"off,omitempty"`
	// Manager is "apt", "dnf", "zypper", "apk" or "pacman".
	Manager string `json:"manager,omitempty"`
	Listing
	// Checked is when the manager was asked, Refreshed when its lists were had
	// from the servers.
	Checked   time.Time `json:"checked,omitzero"`
	Refreshed time.Time `json:"refreshed,omitzero"`
	// Error is why the check at Failed failed; all else is then of the one before.
	Error  string    `json:"error,omitempty"`
	Failed time.Time `json:"failed,omitzero"`
	// Update is the last automatic one.
	Update *Update `json:"update,omitempty"`
}

// Update is an installation of updates by auto-update.
type Update struct {
	At    time.Time `json:"at"`
	What  string    `json:"what"` // "security" or "all"
	Error string    `json:"error,omitempty"`
}

// Line says for people how much is behind; empty where nothing is.
func (r Report) Line() string {
	if r.Off || len(r.Packages) == 0 {
		return ""
	}
	s := fmt.Sprintf("%d packages are behind", len(r.Packages))
	if len(r.Packages) == 1 {
		s = "1 package is behind"
	}
	if r.Security != nil && *r.Security > 0 {
		s += fmt.Sprintf(" (%d security)", *r.Security)
	}
	return s
}

// After is r as the successor of old: a failure keeps what was known, and the
// last automatic update is remembered.
func (r Report) After(old Report) Report {
	if r.Error != "" {
		failed := r
		r = old
		r.Error, r.Failed = failed.Error, failed.Failed
		if failed.Update != nil {
			r.Update = failed.Update
		}
		return r
	}
	if r.Update == nil {
		r.Update = old.Update
	}
	return r
}

// How often: lists are had from the servers at most daily; what is installed
// may be compared with them again after an hour, and what failed be tried.
const (
	Daily  = 24 * time.Hour
	Hourly = time.Hour
)

// Due says whether the environment is to be checked again: after age, and an
// hour at the earliest where that failed.
func (r Report) Due(now time.Time, age time.Duration) bool {
	if r.Error != "" && now.Sub(r.Failed) < Hourly {
		return false
	}
	// A clock that was put back must not end the checks.
	return r.Error != "" || now.Sub(r.Checked) >= age || r.Checked.After(now)
}
