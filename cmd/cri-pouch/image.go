package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/progress"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
)

// credentialsVariable holds USER:PASSWORD for pull.
const credentialsVariable = "CRI_POUCH_CREDENTIALS"

func (a *app) pullCommand() *cobra.Command {
	var creds string
	cmd := &cobra.Command{
		Use: "pull IMAGE", Short: "Pull an image", Args: exactly(1, "one image"),
		Long: "Pull an image and print its ID. Progress goes to stderr: a bar on a terminal, plain lines elsewhere.\n" +
			"Credentials USER:PASSWORD come from " + credentialsVariable + ", from another variable (--creds env:NAME) or from\n" +
			"stdin (--creds -): on the command line every user of the machine could read them.",
		RunE: func(cmd *cobra.Command, args []string) error {
			auth, err := a.credentials(creds)
			if err != nil {
				return err
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				p := progress.New(a.err, args[0])
				id, err := c.Pull(cmd.Context(), args[0], auth, p.Update)
				p.Done()
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(a.out, table.Clean(id))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&creds, "creds", "", "`where` USER:PASSWORD is: - for stdin, env:NAME for a variable")
	return cmd
}

// credentials reads USER:PASSWORD from where says; nothing said and nothing set means none.
func (a *app) credentials(where string) (*runtime.AuthConfig, error) {
	var text string
	name, fromEnv := strings.CutPrefix(where, "env:")
	switch {
	case where == "":
		if text = os.Getenv(credentialsVariable); text == "" {
			return nil, nil
		}
	case where == "-":
		line, err := bufio.NewReader(io.LimitReader(a.in, 64<<10)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read credentials from stdin: %w", err)
		}
		text = strings.TrimRight(line, "\r\n")
	case fromEnv:
		text = os.Getenv(name)
	default:
		return nil, usagef("--creds takes - or env:NAME, so that the password stands on no command line")
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || user == "" {
		return nil, usagef("credentials have the form USER:PASSWORD")
	}
	return &runtime.AuthConfig{Username: user, Password: password}, nil
}

func (a *app) imageCommand() *cobra.Command {
	return group("image", "Import images from files", &cobra.Command{
		Use: "import FILE.tar", Short: "Load the images of an OCI layout or docker archive (- for stdin)", Args: exactly(1, "one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := a.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				images, err := c.Import(cmd.Context(), in)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				for _, i := range images {
					if _, err := fmt.Fprintln(a.out, table.Clean(i.GetName()+" "+i.GetId())); err != nil {
						return err
					}
				}
				return nil
			})
		},
	})
}

func (a *app) removeImageCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rmi IMAGE...", Short: "Remove images", Args: atLeast(1, "an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(c *client.Client, ref string) error {
				image, err := c.Image(cmd.Context(), ref, false)
				if err != nil {
					return err
				}
				_, err = c.Images.RemoveImage(cmd.Context(), &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: image.GetImage().GetId()}})
				return err
			})
		},
	}
}
