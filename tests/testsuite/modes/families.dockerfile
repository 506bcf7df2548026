# A distribution with another archive and other versions of everything; and another kind of packages, made here.
FROM base AS packages
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    busybox-static ca-certificates createrepo-c cron dbus dnf git iputils-ping man-db nginx-light openssh-server rpm sudo && \
    apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/*
RUN useradd -m app && su app -c 'cd && git init -q repo && id > who && mkfifo p; test -w /etc && echo yes > may' ; \
    install -o app -g games -m 2755 /bin/true /usr/local/bin/set
COPY rpm /src
# Its plugin wants a network of its own for scripts, which no builder's filter allows.
RUN rm -f /usr/lib/*/rpm-plugins/unshare.so; \
    rpmbuild --quiet -bb --define '_topdir /build' --define '__os_install_post %{nil}' /src/*.spec && createrepo_c -q /build/RPMS && \
    dnf --installroot=/made --repofrompath=local,/build/RPMS --repo=local --nogpgcheck --setopt=tsflags= -y install service && \
    rpm --root /made -qa && rpm -i --root /made --reinstall /build/RPMS/*/system-*.rpm && \
    rm -rf /build /var/log/* /var/cache/dnf /made/var/log /made/var/cache /made/var/lib/dnf
RUN chroot /made sh -c 'id service && stat -c "%U:%G %a %n" /var/lib/service /var/lib/service/* /etc/service/* > /tmp/seen' && \
    chroot --userspec=service:tapes /made sh -c 'id > /var/lib/service/mine; echo no > /etc/service/secret; mkfifo /tmp/pipe; touch /etc/no; true'
FROM packages
COPY --from=packages /made /copied
