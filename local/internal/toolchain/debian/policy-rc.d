#!/bin/sh
# Asked by installation scripts whether they may start a service: 101 is no.
exit 101
