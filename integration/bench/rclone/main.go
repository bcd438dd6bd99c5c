// Command rclone is rclone with its smb backend and mount command alone: the
// peer of the full bench. A module of its own keeps rclone's dependencies out
// of lx's.
package main

import (
	_ "github.com/rclone/rclone/backend/local" // of the VFS cache
	_ "github.com/rclone/rclone/backend/smb"
	"github.com/rclone/rclone/cmd"
	_ "github.com/rclone/rclone/cmd/mount"
	_ "github.com/rclone/rclone/cmd/obscure"
	_ "github.com/rclone/rclone/cmd/version"
)

func main() { cmd.Main() }
