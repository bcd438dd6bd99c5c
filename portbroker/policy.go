package portbroker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/netns"
)

// Policy are the rules for an environment's ports, as config.MergePorts
// orders them.
type Policy []config.PortRule

// share is the rule where no other speaks.
var share = config.PortRule{Policy: config.PortShare}

// Rule is what counts for a port. The kernel's choice, port 0, no rule speaks of.
func (p Policy) Rule(protocol netns.Protocol, port uint16) config.PortRule {
	if port != 0 {
		for _, r := range p {
			if r.Ports.Contains(protocol.Space().String(), port) {
				return r
			}
		}
	}
	return share
}

// maxRules bounds a file of rules, in bytes.
const maxRules = 1 << 20

// ReadRules reads what WriteRules wrote; nothing where there is no file.
func ReadRules(path string) ([]config.PortRule, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var rules []config.PortRule
	if err == nil && len(b) > maxRules {
		err = errors.New("it is too large")
	}
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		err = dec.Decode(&rules)
	}
	if err == nil {
		err = config.CheckPorts(rules)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the policies of ports %s: %w", path, err)
	}
	return rules, nil
}

// ChangeRules replaces the rules in the file at path by what change makes of
// them, while nobody else does.
func ChangeRules(path string, change func([]config.PortRule) ([]config.PortRule, error)) error {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot change the policies of ports: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("cannot change the policies of ports: %w", err)
	}
	rules, err := ReadRules(path)
	if err == nil {
		rules, err = change(rules)
	}
	if err == nil {
		err = config.CheckPorts(rules)
	}
	if err != nil {
		return err
	}
	if err := writeJSON(path, rules); err != nil {
		return fmt.Errorf("cannot change the policies of ports: %w", err)
	}
	return nil
}

// writeJSON puts a file in the place of what was there, at once.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
