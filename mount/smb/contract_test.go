package smb

import (
	"testing"

	"github.com/lxbridge/lx/integration/smbtest"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/volumetest"
)

func TestContract(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	for name, change := range map[string]func(*Config){
		"plain":      func(*Config) {},
		"encrypted":  func(c *Config) { c.Share = smbtest.Encrypted },
		"mfsymlinks": func(c *Config) { c.MFSymlinks = true },
		"nocase":     func(c *Config) { c.Share, c.NoCase = smbtest.Mixed, true },
	} {
		t.Run(name, func(t *testing.T) {
			volumetest.Contract(t, func() volume.Volume {
				c := config(s, smbtest.Data)
				change(&c)
				v, err := Dial(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				return v
			})
		})
	}
}
