package usbip

import "strings"

// Profile is how a server differs from the protocol's description.
type Profile struct {
	Name string
	// ZeroPackets: it honours FlagZeroPacket. Else the client sends an empty
	// transfer behind the data.
	ZeroPackets bool
	// CancelsOne: it ends one transfer where that is asked for. Else
	// transfers are cancelled here, and late answers dropped.
	CancelsOne bool
	// PortReset: it resets the device by a hub's request (SET_FEATURE,
	// PORT_RESET). Else the device is imported anew, which resets it.
	PortReset bool
}

// The servers that are known. Each has been read or run: usbip-host and
// usbip-vudc of Linux 6.12, usbipd-win 5.
var (
	profileLinux   = Profile{Name: "Linux", ZeroPackets: true, CancelsOne: true, PortReset: true}
	profileVUDC    = Profile{Name: "usbip-vudc", CancelsOne: true}
	profileWindows = Profile{Name: "usbipd-win"}
	profileLx      = Profile{Name: "lx", ZeroPackets: true, CancelsOne: true, PortReset: true}
	profileUnknown = Profile{Name: "unknown"}
)

// PathPrefix begins the paths that our server tells of.
const PathPrefix = "/lx/"

// profileOf knows a server by the path that it has for its device.
func profileOf(path string) Profile {
	switch {
	case strings.HasPrefix(path, PathPrefix):
		return profileLx
	case strings.Contains(path, "usbip-vudc"):
		return profileVUDC
	case strings.HasPrefix(path, "/sys/"):
		return profileLinux
	case strings.Contains(path, `\`):
		return profileWindows
	}
	return profileUnknown
}
