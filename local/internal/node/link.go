//go:build linux

package node

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// ensureLink connects the machine to the network namespace of the process holder: a veth pair, addresses at both ends,
// and routes to pods and Services. It keeps what exists already.
func ensureLink(holder int) error {
	ns, err := netns.GetFromPid(holder)
	if err != nil {
		return fmt.Errorf("the network namespace of process %d: %w", holder, err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("the network namespace of process %d: %w", holder, err)
	}
	defer inside.Close()

	if err := ensurePair(inside, holder); err != nil {
		return err
	}
	if err := configureInside(inside); err != nil {
		return fmt.Errorf("the cluster's end of the link, %s: %w", nodeLink, err)
	}
	if err := configureOutside(); err != nil {
		return fmt.Errorf("the machine's end of the link, %s: %w", hostLink, err)
	}
	return enableForwarding(holder)
}

// ensurePair makes the veth pair, unless both ends are in place.
func ensurePair(inside *netlink.Handle, holder int) error {
	near, err := findLink(nil, hostLink)
	if err != nil {
		return err
	}
	far, err := findLink(inside, nodeLink)
	if err != nil {
		return err
	}
	if near != nil && far != nil {
		return nil
	}
	if err := removeLink(); err != nil {
		return err
	}
	pair := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: hostLink},
		PeerName:      nodeLink,
		PeerNamespace: netlink.NsPid(holder),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("veth pair %s, %s: %w", hostLink, nodeLink, err)
	}
	return nil
}

func configureInside(inside *netlink.Handle) error {
	loopback, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := inside.LinkSetUp(loopback); err != nil {
		return err
	}
	link, err := inside.LinkByName(nodeLink)
	if err != nil {
		return err
	}
	for _, m := range members {
		if err := inside.AddrReplace(link, clusterAddr(m.Address)); err != nil {
			return fmt.Errorf("address %s: %w", m.Address, err)
		}
	}
	if err := inside.LinkSetUp(link); err != nil {
		return err
	}
	// Nothing lies behind this default route, but packets to addresses without a route would fail before kube-proxy's
	// rules see them.
	return inside.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(hostAddress)})
}

func configureOutside() error {
	link, err := netlink.LinkByName(hostLink)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, clusterAddr(hostAddress)); err != nil {
		return fmt.Errorf("address %s: %w", hostAddress, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, destination := range []string{podRange, serviceRange} {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: mustCIDR(destination), Gw: net.ParseIP(address())}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s: %w", destination, err)
		}
	}
	return nil
}

// enableForwarding lets the namespace route between the link and the pods. Under /proc/sys/net a thread sees the
// settings of its own namespace.
func enableForwarding(holder int) error {
	return onThread(func() error {
		if err := enterNamespaces(holder, "net"); err != nil {
			return err
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
	})
}

// removeLink removes the pair, and with it the addresses and the routes.
func removeLink() error {
	link, err := findLink(nil, hostLink)
	if err != nil || link == nil {
		return err
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("remove the link %s: %w", hostLink, err)
	}
	return nil
}

// findLink returns nil for a link that does not exist. A nil h means the machine's own namespace.
func findLink(h *netlink.Handle, name string) (netlink.Link, error) {
	find := netlink.LinkByName
	if h != nil {
		find = h.LinkByName
	}
	link, err := find(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the link %s: %w", name, err)
	}
	return link, nil
}

func clusterAddr(ip string) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip).To4(), Mask: net.CIDRMask(clusterPrefix, 32)}}
}

// mustCIDR parses one of this package's constants.
func mustCIDR(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}
