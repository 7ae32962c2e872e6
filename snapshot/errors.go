package snapshot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
)

// registryUnavailable begins the message of a pull whose registry did not answer: the kubelet shows such a pull with a
// reason of its own (k8s.io/cri-api/pkg/errors.ErrRegistryUnavailable).
const registryUnavailable = "RegistryUnavailable"

// errStalled is the cause of a pull that got no byte for too long.
var errStalled = errors.New("no data for too long")

// errCutOff is the end of a transfer before all of it was there; a later one goes on from that point.
var errCutOff = errors.New("the transfer was cut off")

// errForeignRealm is the refusal to send credentials to a token service over an unprotected connection.
var errForeignRealm = errors.New("credentials are not sent in clear text")

// pullError gives the error of a pull its class and what to do about it. The cause stays in the chain.
func pullError(ctx context.Context, ref string, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errStalled) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		err = cause
	}
	var status remoteerrors.ErrUnexpectedStatus
	switch {
	case isDiskFull(err):
		return fmt.Errorf("pull %s: the disk of the image store is full, free some space or remove images: %w: %w", ref, errdefs.ErrResourceExhausted, err)
	case errors.Is(err, errStalled):
		return unavailable(ref, "the registry stopped sending, check it or raise images.pull_progress_timeout", err)
	case errors.Is(err, errForeignRealm):
		return fmt.Errorf("pull %s: %w: %w", ref, errdefs.ErrPermissionDenied, err)
	case isClassed(err):
		return fmt.Errorf("pull %s: %w", ref, err)
	case errors.As(err, &status):
		return statusError(ref, status, err)
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return fmt.Errorf("pull %s: the registry wants other credentials: check the pull secret: %w: %w", ref, errdefs.ErrPermissionDenied, err)
	case isTLSError(err):
		return unavailable(ref, "its certificate is not accepted, put the CA into the registry's hosts.toml", err)
	case isNetError(err):
		return unavailable(ref, "check the network, the name and the mirrors in hosts.toml", err)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("pull %s: the registry has no such image: check name, tag and credentials: %w", ref, err)
	}
	return fmt.Errorf("pull %s: %w", ref, err)
}

func unavailable(ref, fix string, err error) error {
	return fmt.Errorf("%s: pull %s: %s: %w: %w", registryUnavailable, ref, fix, errdefs.ErrUnavailable, err)
}

// statusError sorts the answers of a registry.
func statusError(ref string, s remoteerrors.ErrUnexpectedStatus, err error) error {
	switch {
	case s.StatusCode == http.StatusUnauthorized || s.StatusCode == http.StatusForbidden:
		return fmt.Errorf("pull %s: the registry refuses access: check the image's name and the pull secret: %w: %w", ref, errdefs.ErrPermissionDenied, err)
	case s.StatusCode == http.StatusTooManyRequests || s.StatusCode >= 500:
		return unavailable(ref, "the registry answers "+s.Status, err)
	}
	return fmt.Errorf("pull %s: %w", ref, err)
}

// classed are errors that this package has already given its class and words.
type classed struct{ error }

func (c classed) Unwrap() error { return c.error }

func isClassed(err error) bool {
	var c classed
	return errors.As(err, &c)
}

// imageError is what is wrong with an image itself, and not with the way to it.
func imageError(class error, format string, args ...any) error {
	return classed{fmt.Errorf("%w: %w", fmt.Errorf(format, args...), class)}
}

func isTLSError(err error) bool {
	var ca x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	return errors.As(err, &ca) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &verify)
}

func isNetError(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	var uerr *url.Error
	var nerr net.Error
	if errors.As(err, &nerr) {
		if _, bare := nerr.(syscall.Errno); bare { // it has the methods too; without a net.OpError around it is a local file's
			nerr = nil
		}
	}
	return errors.As(err, &op) || errors.As(err, &dns) || errors.As(err, &uerr) || nerr != nil ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, context.DeadlineExceeded) ||
		strings.Contains(err.Error(), "http2: ") // x/net/http2's errors are not exported by the standard library's copy
}
