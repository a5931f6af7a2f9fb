/* Keeps the files as they would be found after a power loss, for LD_PRELOAD: whenever a file in SHADOW_FROM is synced, it
   is copied to SHADOW_TO, as it is then. What was written and not synced is not there. What was deleted is gone with the
   next sync of any file, as in a file system with a journal. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const char *join(char *path, const char *directory, const char *name, const char *end) {
    if (snprintf(path, PATH_MAX, "%s/%s%s", directory, name, end) >= PATH_MAX)
        abort();
    return path;
}

/* The copy appears under its name at once and whole: the process may be killed at any moment. */
static void copy(const char *from, const char *directory, const char *name) {
    char part[PATH_MAX], whole[PATH_MAX], buffer[1 << 16];
    ssize_t count;
    int in = open(from, O_RDONLY), out = open(join(part, directory, name, ".part"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (in < 0 || out < 0)
        abort();
    while ((count = read(in, buffer, sizeof buffer)) > 0)
        if (write(out, buffer, count) != count)
            abort();
    close(in);
    close(out);
    rename(part, join(whole, directory, name, ""));
}

static void remove_deleted(const char *from, const char *to) {
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *directory = opendir(to);
    if (!directory)
        abort();
    while ((entry = readdir(directory)))
        if (entry->d_name[0] != '.' && access(join(path, from, entry->d_name, ""), F_OK) != 0)
            unlink(join(path, to, entry->d_name, ""));
    closedir(directory);
}

static void synced(int fd) {
    const char *from = getenv("SHADOW_FROM"), *to = getenv("SHADOW_TO");
    char link[64], path[PATH_MAX];
    if (!from || !to)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t start = strlen(from);
    if (length < 0)
        return;
    path[length] = 0;
    if (strncmp(path, from, start) != 0 || path[start] != '/')
        return;
    pthread_mutex_lock(&lock);
    copy(path, to, path + start + 1);
    remove_deleted(from, to);
    pthread_mutex_unlock(&lock);
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    int result = real(fd);
    if (result == 0)
        synced(fd);
    return result;
}

int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd);
    if (result == 0)
        synced(fd);
    return result;
}
